package supervisor

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"sync"
	"time"

	"github.com/hyve-vm/hyve/internal/control"
	"github.com/hyve-vm/hyve/internal/guestapi"
	"github.com/hyve-vm/hyve/internal/machine"
)

// clockInterval is how often the guest is told the host's time. It keeps the
// guest right after the host has slept or its clock was set, and costs one short
// message.
const clockInterval = 10 * time.Second

// guest is the host's end of the conversation with hyve-init.
type guest struct {
	board *board
	log   *slog.Logger
	ports *ports
	inbox *mailbox // of the session, which hears what it says

	mu       sync.Mutex
	out      *guestapi.Writer[guestapi.Request] // nil until the guest is connected
	services map[string]*logFile
	born     time.Time          // when its clock began
	greeted  chan struct{}      // closed once it is connected
	thawing  bool               // it was frozen and is not ready yet
	quiet    bool               // nothing is to be said to it
	saying   int                // requests that are being sent
	silence  chan struct{}      // closed when there are none, if somebody waits for that
	unsaid   []guestapi.Request // what it is to hear afterwards
	lastID   uint64             // of a request
	replies  map[uint64]chan guestapi.Reply
}

func newGuest(dir machine.Dir, board *board, log *slog.Logger, ports *ports, inbox *mailbox) (*guest, error) {
	g := &guest{board: board, log: log, ports: ports, inbox: inbox, services: map[string]*logFile{},
		greeted: make(chan struct{}), lastID: openingID, replies: map[uint64]chan guestapi.Reply{}}
	for _, service := range []string{guestapi.ServiceInit, guestapi.ServiceContainerd, guestapi.ServiceDockerd} {
		var err error
		if g.services[service], err = openLog(dir.Log(service), true, nil); err != nil {
			g.close()
			return nil, err
		}
	}
	return g, nil
}

func (g *guest) close() {
	for _, l := range g.services {
		if l != nil {
			l.close()
		}
	}
}

// hangUp ends a conversation, also for those who wait for a reply.
func (g *guest) hangUp() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.out != nil {
		g.out, g.greeted = nil, make(chan struct{})
	}
	for id, waiting := range g.replies {
		waiting <- guestapi.Reply{ID: id, Error: guestapi.NewProse("the VM has ended")}
		delete(g.replies, id)
	}
}

// openingID is the ID of a conversation's first request after the hello.
const openingID = 1

// converse speaks with the guest on conn until the connection ends: it makes the
// opening request, which gives the guest its configuration or, after a thaw, its
// identity, then handles what the guest pushes.
func (g *guest) converse(ctx context.Context, conn net.Conn, thawed bool, opening func() (guestapi.Request, error)) error {
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	defer g.hangUp()

	g.mu.Lock()
	g.quiet, g.unsaid, g.thawing = false, nil, thawed
	g.mu.Unlock()
	session := uint64(time.Now().UnixNano())
	out := guestapi.NewWriter[guestapi.Request](patient{conn})
	open := func() error {
		request, err := opening()
		if err != nil {
			return err
		}
		request.ID = openingID
		if err := out.Write(request); err != nil {
			return fmt.Errorf("configuring the guest: %w", err)
		}
		return nil
	}
	hello := &guestapi.Hello{Version: guestapi.Version, Session: session}
	if err := errors.Join(out.Resync(), out.Write(guestapi.Request{Hello: hello})); err != nil {
		return fmt.Errorf("greeting the guest: %w", err)
	}
	if thawed { // it listens
		if err := open(); err != nil {
			return err
		}
		g.inbox.post(message{kind: warm})
	}
	in := guestapi.NewReader[guestapi.Event](conn)
	in.Damaged = func(line []byte) { g.log.Warn("damaged message from the guest", "line", string(line)) }
	in.Pace = pace(ctx)
	for greeted := false; ; {
		event, err := in.Read()
		if err != nil {
			return nil // the VM has ended; why is for others to say
		}
		event.Uptime = min(max(0, event.Uptime), maxUptime)
		switch answer := event.Hello; {
		case answer != nil && answer.Session != session, answer == nil && !greeted:
			// An earlier conversation's.
		case answer != nil && answer.Version != guestapi.Version:
			return fmt.Errorf("greeting the guest: its image speaks version %d, this hyve speaks %d", answer.Version, guestapi.Version)
		case answer != nil:
			if greeted {
				continue
			}
			greeted = true
			if !thawed {
				if err := open(); err != nil {
					return err
				}
			}
			g.mu.Lock()
			g.out, g.born = out, time.Now().Add(-event.Uptime)
			close(g.greeted)
			g.mu.Unlock()
			go g.keepClock(ctx, thawed)
			if !thawed {
				g.inbox.post(message{kind: cameUp})
			}
		default:
			g.handle(event)
		}
	}
}

// maxUnsaid bounds what is kept for a guest that is being frozen: more ports than it can
// have opened in the moment before it stood still.
const maxUnsaid = 1024

// send asks the guest for something, if it is there to be asked. What it must not miss and
// nobody says again, one that is being frozen hears when that is over.
func (g *guest) send(request guestapi.Request) error {
	g.mu.Lock()
	out, quiet := g.out, g.quiet
	once := request.PortAck != nil || request.Identity != nil && request.ID == 0
	keep := out != nil && quiet && once && len(g.unsaid) < maxUnsaid
	if keep {
		g.unsaid = append(g.unsaid, request)
	}
	if out != nil && !quiet {
		g.saying++
		defer g.said()
	}
	g.mu.Unlock()
	switch {
	case out == nil:
		return errors.New("the guest is not connected")
	case keep:
		return nil
	case quiet:
		return errors.New("the guest is being frozen")
	}
	return out.Write(request)
}

// greetingPatience bounds the wait for a thawed guest's hello, which takes a fraction of it.
const greetingPatience = 10 * time.Second

// await waits until the guest is connected, ended is closed or it has had its time.
func (g *guest) await(ended <-chan struct{}) {
	g.mu.Lock()
	greeted := g.greeted
	g.mu.Unlock()
	select {
	case <-greeted:
	case <-ended:
	case <-time.After(greetingPatience):
	}
}

func (g *guest) isConnected() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.out != nil
}

// quiesce implements channel, for a guest that is ready for a freeze.
func (g *guest) quiesce(ctx context.Context) error {
	g.mu.Lock()
	g.quiet = true
	if g.saying > 0 && g.silence == nil {
		g.silence = make(chan struct{})
	}
	silence := g.silence
	g.mu.Unlock()
	if silence == nil {
		return nil
	}
	select {
	case <-silence:
		return nil
	case <-ctx.Done():
		g.resume()
		return fmt.Errorf("waiting for the guest to listen: %w", context.Cause(ctx))
	}
}

// said ends what send has begun to say.
func (g *guest) said() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.saying--; g.saying == 0 && g.silence != nil {
		close(g.silence)
		g.silence = nil
	}
}

// resume implements channel. The guest hears what was kept for it before anything newer.
func (g *guest) resume() {
	for {
		g.mu.Lock()
		out, unsaid := g.out, g.unsaid
		g.unsaid = nil
		if out == nil || len(unsaid) == 0 {
			g.quiet = false
			g.mu.Unlock()
			return
		}
		g.mu.Unlock()
		for _, request := range unsaid {
			if err := out.Write(request); err != nil {
				g.log.Warn("telling the guest what it has missed", "error", err)
			}
		}
	}
}

// keepClock tells the guest the time, at once if what it has heard was on its way for long.
func (g *guest) keepClock(ctx context.Context, late bool) {
	tick := time.NewTicker(clockInterval)
	defer tick.Stop()
	for {
		if late {
			now := guestapi.ClockNow()
			g.send(guestapi.Request{Clock: &now}) // or the next time
		}
		late = true
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

func (g *guest) handle(event guestapi.Event) {
	switch {
	case event.Log != nil:
		g.record(event.Log.Service.String(), event.Log.Line.String())
	case event.Phase != nil:
		name, now := event.Phase.Name.String(), time.Now()
		g.mu.Lock()
		// Nothing has ended in the future: the greeting took longer on its way than this.
		if born := now.Add(-event.Uptime); born.Before(g.born) {
			g.born = born
		}
		at := g.born.Add(event.Uptime)
		g.mu.Unlock()
		g.board.stepAt(name, activityAfter[name], at)
		switch name {
		case guestapi.PhaseContainerd:
			g.inbox.post(message{kind: warm})
		case guestapi.PhaseIdentity:
			g.inbox.post(message{kind: cameUp})
		}
	case event.EngineReady != nil:
		g.mu.Lock()
		thawing := g.thawing
		g.mu.Unlock()
		if !thawing { // it answers as somebody else
			g.inbox.post(message{kind: engineUp})
		}
	case event.EngineEnded != nil:
		g.inbox.post(message{kind: engineDown})
	case event.Failed != nil:
		g.fail(event.Failed)
	case event.PortOpened != nil:
		ack := g.ports.opened(event.PortOpened)
		if err := g.send(guestapi.Request{PortAck: &ack}); err != nil {
			g.log.Warn("answering for a port", "error", err)
		}
	case event.PortClosed != nil:
		g.ports.closed(event.PortClosed.ID)
	case event.OutOfMemory != nil:
		g.complain(describe(event.OutOfMemory))
	case event.DiskFull != nil:
		const line = "the machine's disk is almost full"
		g.log.Warn("room on the machine's disk", "free", machine.FormatSize(event.DiskFull.FreeBytes), "enough", event.DiskFull.Over)
		if event.DiskFull.Over {
			g.board.solved(line)
		} else {
			g.board.problem(line)
		}
	case event.Unreadable != nil:
		g.complain(fmt.Sprintf("images and containers that docker kept with %.20q are on the disk, and this engine cannot read them: "+
			"start the old machine and move them with hyve migrate", event.Unreadable.Driver.String()))
	case event.Busy != nil:
		g.inbox.post(message{kind: occupied, runs: event.Busy.Running})
	case event.PowerOff != nil:
		g.log.Info("guest powers off", "reboot", event.PowerOff.Reboot, "reason", event.PowerOff.Reason)
		g.inbox.post(message{kind: poweredOff, poweroff: event.PowerOff})
	case event.Reply != nil:
		g.replied(*event.Reply)
	}
}

// replied hands a reply to whoever waits for it.
func (g *guest) replied(reply guestapi.Reply) {
	g.mu.Lock()
	waiting := g.replies[reply.ID]
	delete(g.replies, reply.ID)
	woken := g.thawing && reply.ID == openingID
	if woken {
		g.thawing = false
	}
	g.mu.Unlock()
	switch {
	case waiting != nil:
		waiting <- reply
	case woken && reply.Error.String() == "":
		g.inbox.post(message{kind: engineUp})
	case woken:
		g.log.Error("the thawed guest cannot be this machine", "cause", reply.Error)
		g.inbox.post(message{kind: unfit})
	case reply.Error.String() != "":
		g.log.Warn("guest refused a request", "id", reply.ID, "error", reply.Error)
	}
}

// ask makes a request and waits for its reply.
func (g *guest) ask(ctx context.Context, request guestapi.Request) error {
	_, err := g.inquire(ctx, request)
	return err
}

// inquire is ask for a request whose reply says more than that it went well.
func (g *guest) inquire(ctx context.Context, request guestapi.Request) (guestapi.Reply, error) {
	reply := make(chan guestapi.Reply, 1)
	g.mu.Lock()
	g.lastID++
	request.ID = g.lastID
	g.replies[request.ID] = reply
	g.mu.Unlock()
	defer func() {
		g.mu.Lock()
		delete(g.replies, request.ID)
		g.mu.Unlock()
	}()
	if err := g.send(request); err != nil {
		return guestapi.Reply{}, err
	}
	select {
	case r := <-reply:
		if text := r.Error.String(); text != "" {
			return r, errors.New(text)
		}
		return r, nil
	case <-ctx.Done():
		return guestapi.Reply{}, fmt.Errorf("waiting for the guest: %w", context.Cause(ctx))
	}
}

// activityAfter is what a starting machine does after a phase has ended.
var activityAfter = map[string]string{
	guestapi.PhaseInit:       "Booting",
	guestapi.PhaseConfigured: "Starting the engine",
}

// fail passes on a failure. One that is fatal has the guest power off by itself.
func (g *guest) fail(failed *guestapi.Failed) {
	g.log.Error("guest reports a failure", "phase", failed.Phase, "cause", failed.Cause, "fatal", failed.Fatal)
	kind := trouble
	if failed.Fatal {
		kind = fatal
	}
	g.inbox.post(message{kind: kind, failure: failed})
}

// failureOf is what a guest reports, of which the second line is a way out.
func failureOf(failed *guestapi.Failed) *control.Failure {
	cause, more, _ := strings.Cut(failed.Cause.String(), "\n")
	hint, _, _ := strings.Cut(more, "\n")
	return &control.Failure{Phase: failed.Phase.String(), Cause: cause, Hint: hint}
}

func describe(kill *guestapi.OutOfMemory) string {
	if kill.Cgroup.String() != "" {
		return fmt.Sprintf("a container reached its memory limit and %s was killed", kill.Process)
	}
	return fmt.Sprintf("the machine ran out of memory and %s was killed", kill.Process)
}

// complain is trouble that the guest tells of.
func (g *guest) complain(line string) {
	g.log.Warn(line)
	g.board.complaint(line)
}

func (g *guest) trouble(line string) {
	g.log.Warn(line)
	g.board.problem(line)
}

// record writes a line of a guest's service into its log.
func (g *guest) record(service, line string) {
	g.mu.Lock()
	l := g.services[service]
	g.mu.Unlock()
	if l == nil { // a service of a newer image
		g.log.Info(line, "service", service)
		return
	}
	l.line(line)
}
