package guest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime/debug"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/hyve-vm/hyve/internal/guest/datadisk"
	"github.com/hyve-vm/hyve/internal/guest/engine"
	"github.com/hyve-vm/hyve/internal/guest/front"
	"github.com/hyve-vm/hyve/internal/guest/outbox"
	"github.com/hyve-vm/hyve/internal/guest/process"
	"github.com/hyve-vm/hyve/internal/guest/publish"
	"github.com/hyve-vm/hyve/internal/guest/sshd"
	"github.com/hyve-vm/hyve/internal/guestapi"
	"github.com/hyve-vm/hyve/internal/hint"
)

// A guest is this machine, seen by its PID 1.
type guest struct {
	reaper  *process.Reaper
	devices *devices
	out     *outbox.Outbox

	// ctx ends when the machine shall power off; power holds the reason.
	ctx   context.Context
	power chan guestapi.PowerOff

	configured chan struct{} // closed once config is there
	config     guestapi.Config

	freezing sync.Mutex // held while it gets ready for a freeze, or goes on
	frozen   bool       // it is ready for one
	examiner examiner
	memory   reporting
	clock    clock
	identity identity
	engine   *engine.Engine
	front    *front.Front
	ssh      *sshd.Server
	ports    *publish.Ports

	hostAddress publish.HostAddress
}

// uptime is the time since the guest's kernel started.
func uptime() time.Duration {
	var ts unix.Timespec
	unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts)
	return time.Duration(ts.Nano())
}

// spawn runs f beside everything else. A panic in it ends the machine with its
// cause told, instead of the kernel's "attempted to kill init".
func (g *guest) spawn(f func()) {
	go func() {
		defer g.dieOfPanic()
		f()
	}()
}

func (g *guest) dieOfPanic() {
	if r := recover(); r != nil {
		g.die(guestapi.PhaseInit, fmt.Errorf("hyve-init panicked: %v\n%s", r, debug.Stack()))
	}
}

// die tells the host why the machine cannot go on, and ends it at once.
func (g *guest) die(phase string, cause error) {
	fmt.Fprintf(os.Stderr, "hyve-init: %s: %v\n", phase, cause)
	g.out.Put(guestapi.Event{Failed: &guestapi.Failed{Phase: guestapi.NewText(phase), Cause: guestapi.NewProse(describeError(cause)), Fatal: true}})
	g.out.Flush(2 * time.Second)
	unix.Sync()
	unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
	select {} // the kernel takes a moment
}

// describeError is an error's text, and its way out on lines of its own.
func describeError(err error) string {
	text := err.Error()
	if way := hint.Of(err); way != "" {
		text += "\n" + way
	}
	return text
}

// fail tells the host of a step that failed and that the machine can live with.
func (g *guest) fail(phase string, err error) {
	g.out.Put(guestapi.Event{Failed: &guestapi.Failed{Phase: guestapi.NewText(phase), Cause: guestapi.NewProse(describeError(err))}})
}

// note logs an error that is nobody's failure.
func (g *guest) note(err error) {
	if err != nil {
		for line := range strings.Lines(err.Error()) {
			g.out.Logf("%s", strings.TrimRight(line, "\n"))
		}
	}
}

// together runs the functions at the same time and returns their errors.
func (g *guest) together(steps ...func() error) error {
	errs := make([]error, len(steps))
	var all sync.WaitGroup
	for i, step := range steps {
		all.Add(1)
		g.spawn(func() {
			defer all.Done()
			errs[i] = step()
		})
	}
	all.Wait()
	return errors.Join(errs...)
}

// handle does what the host asks. What takes long goes on in the background.
func (g *guest) handle(req guestapi.Request) {
	switch {
	case req.Configure != nil:
		g.clock.learn(req.Configure.Identity.Clock)
		select {
		case <-g.configured:
			// Once a boot: a host that asks again means its identity.
			g.reply(req.ID, func() error { return g.applyIdentity(req.Configure.Identity) })
		default:
			g.config = *req.Configure
			g.out.Phase(guestapi.PhaseConfigured)
			close(g.configured)
			g.reply(req.ID, func() error { return nil })
		}
	case req.Identity != nil:
		g.clock.learn(req.Identity.Clock)
		g.reply(req.ID, func() error {
			select {
			case <-g.configured:
				if err := g.applyIdentity(*req.Identity); err != nil {
					return err
				}
				g.out.Phase(guestapi.PhaseIdentity)
				g.spawn(g.engine.RehearseStart)
				g.note(g.engine.Wake())
				return nil
			default:
				return errors.New("applying an identity: the machine is not configured yet")
			}
		})
	case req.PortAck != nil:
		g.ports.Acknowledge(*req.PortAck)
	case req.Clock != nil:
		g.clock.learn(*req.Clock)
		g.reply(req.ID, g.clock.apply)
	case req.Freeze != nil:
		g.reply(req.ID, func() error { return g.freeze(*req.Freeze) })
	case req.Unfreeze != nil:
		g.reply(req.ID, func() error {
			g.unfreeze()
			g.front.Open() // it is who it was
			return g.memory.start()
		})
	case req.Usage != nil:
		g.answer(req.ID, func() (guestapi.Reply, error) {
			usage, err := memoryUsage()
			return guestapi.Reply{Usage: &usage}, err
		})
	case req.Sync != nil:
		g.reply(req.ID, datadisk.Sync)
	case req.Grow != nil:
		g.reply(req.ID, func() error { return g.growData(req.Grow.Size) })
	case req.Examine != nil:
		g.answer(req.ID, func() (guestapi.Reply, error) {
			examination, err := g.examiner.examine(req.Examine.Note)
			return guestapi.Reply{Examination: examination}, err
		})
	case req.Shutdown != nil:
		g.reply(req.ID, func() error {
			g.unfreeze()
			g.askPower(guestapi.PowerOff{Reboot: req.Shutdown.Reboot, Reason: guestapi.NewText("the host asked")})
			return nil
		})
	default: // a newer host's
		g.reply(req.ID, func() error { return fmt.Errorf("handling request %d of the host: unknown kind", req.ID) })
	}
}

// reply runs f in the background and tells the host how it went.
func (g *guest) reply(id uint64, f func() error) {
	g.answer(id, func() (guestapi.Reply, error) { return guestapi.Reply{}, f() })
}

// answer is reply for a reply that says more than that it went well.
func (g *guest) answer(id uint64, f func() (guestapi.Reply, error)) {
	g.spawn(func() {
		reply, err := f()
		reply.ID = id
		if err != nil {
			reply.Error = guestapi.NewProse(describeError(err))
			g.note(err)
		}
		if id != 0 {
			g.out.Put(guestapi.Event{Reply: &reply})
		}
	})
}

// greeted tells a new host what an earlier one knew. Such a host has thawed this
// machine, and says next who it is.
func (g *guest) greeted(first bool) {
	if first {
		return
	}
	g.engine.Repeat() // before the reply to who it is, or the host would greet the engine twice
	g.spawn(func() { g.engine.Rehearse("/_ping") })
	g.spawn(func() {
		g.unfreeze()
		g.tellBusy()
		g.ports.Repeat()
	})
}

// askPower asks for the machine's end. The first reason counts.
func (g *guest) askPower(p guestapi.PowerOff) {
	select {
	case g.power <- p:
	default:
	}
}

// A value that is replaced as a whole while others read it.
type current[T any] struct{ p atomic.Pointer[T] }

func (c *current[T]) set(v T) { c.p.Store(&v) }

// get returns the value, and false while there is none.
func (c *current[T]) get() (T, bool) {
	if v := c.p.Load(); v != nil {
		return *v, true
	}
	var zero T
	return zero, false
}
