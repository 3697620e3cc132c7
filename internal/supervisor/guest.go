package supervisor

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"time"

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
