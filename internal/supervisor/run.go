// Package supervisor is the process that owns one running VM: it starts the
// hypervisor, carries the network, speaks with the guest, and answers the words.
package supervisor

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"runtime/debug"
	"sync"
	"sync/atomic"

	"github.com/hyve-vm/hyve/internal/control"
	"github.com/hyve-vm/hyve/internal/frozen"
	"github.com/hyve-vm/hyve/internal/guestapi"
	"github.com/hyve-vm/hyve/internal/hint"
	"github.com/hyve-vm/hyve/internal/machine"
	"github.com/hyve-vm/hyve/internal/network"
)

// supervisor is one running machine.
type supervisor struct {
	machine   *machine.Machine
	log       *slog.Logger
	logs      *logs
	board     *board
	sockets   *sockets
	net       *network.Network
	guest     *guest
	channels  channels // into the VM
	resources resources
	lock      *machine.Lock

	inbox   *mailbox        // of the session
	session session         // serve's alone
	ctx     context.Context // of the run, to its end
	upToVM  context.Context // of what comes before a VM runs, which can be called off
	callOff context.CancelCauseFunc
	beside  sync.WaitGroup // what goes on beside the session for as long as ctx

	forwardGuestPorts func()            // lets clients in that go straight to the guest
	reachable         gate              // open while the engine can be dialled
	warmConn          warmConn          // for the first who dials it
	warm, ready       *flight           // of making it, and of dialling an engine that is up; anew for each VM
	found             *frozen.Candidate // to thaw from
	ungrown           atomic.Bool       // the disk is larger than its file system
	idle              *idle
	room              room

	mu     sync.Mutex
	access network.HostAccess // of the guest to the host
}

// errStopped ends a run that was asked to stop before its VM ran.
var errStopped = errors.New("it was stopped before it was ready")

// Run starts the machine of that name and owns it until its VM has ended:
//
//   - lock: the machine is this process' from here on
//   - listen: the sockets of words, Docker, SSH and guest
//   - ready: the starter is told that it can watch
//   - prepare: image verified, hypervisor found and tried, certificates made
//   - network: gateway, DNS and forwards, in this process, and the card's socket
//   - power on: the hypervisor, which holds the lock from here on, too
//   - converse: configuration in, events out, until the VM ends
//   - tell: whoever watches hears how it ended
//
// The machine is killed when leash, if it is not nil, ends. ready is called once:
// with nil when the control socket answers, or with why the run could not begin,
// machine.ErrLocked among the reasons.
func Run(ctx context.Context, home machine.Home, name string, leash io.Reader, ready func(error)) error {
	m, err := home.Load(name)
	if err != nil {
		ready(err)
		return err
	}
	debug.SetMemoryLimit(network.MemoryLimit)
	s := &supervisor{
		board: newBoard(control.Status{PID: os.Getpid(), Activity: "Preparing"}),
		idle:  newIdle(m.IdleAfter()),
		inbox: newMailbox(),
	}
	s.session.effects = s
	s.reachable.onWait = s.idle.wake
	if s.lock, err = m.Dir().Acquire(); err != nil {
		ready(err)
		return err
	}
	defer s.lock.Release()
	// Whoever had the lock just now may have changed it.
	if s.machine, err = home.Load(name); err != nil {
		ready(err)
		return err
	}
	m = s.machine
	if s.logs, err = openLogs(m.Dir()); err != nil {
		ready(err)
		return err
	}
	defer s.logs.close()
	s.log = slog.New(slog.NewTextHandler(&s.logs.lines, nil))
	fresh, err := takeNext(m)
	if err != nil {
		ready(err)
		return err
	}
	if fresh {
		s.board.set(func(st *control.Status) { st.BootReason = newSettings })
	}
	s.access = hostAccess(m)
	if s.sockets, err = listen(m.Dir()); err != nil {
		ready(err)
		return err
	}
	defer s.sockets.close()
	var cancel context.CancelFunc
	s.ctx, cancel = context.WithCancel(ctx)
	defer s.beside.Wait()
	defer cancel()
	s.upToVM, s.callOff = context.WithCancelCause(s.ctx)
	defer s.callOff(nil)
	told := s.answerWords()
	defer told()
	s.stopOnSignal()
	if leash != nil {
		go func() {
			io.Copy(io.Discard, leash)
			s.Stop(s.ctx, control.StopRequest{Kill: true})
		}()
	}
	os.Remove(m.Dir().Failure())
	ready(nil)

	s.log.Info("starting", "machine", m.Name, "image", m.Image)
	err = s.untilOver()
	s.conclude(err)
	return err
}

// untilOver is the part of Run during which there is something to watch.
func (s *supervisor) untilOver() error {
	go func() {
		if err := s.prepare(); err != nil {
			s.inbox.post(message{kind: failed, err: err})
		} else {
			s.inbox.post(message{kind: prepared})
		}
	}()
	s.serve()
	if s.net != nil {
		defer s.net.Close()
	}
	if s.guest != nil {
		defer s.guest.close()
	}
	return errors.Join(s.session.err, s.dropIfCold())
}

// serve passes the session its messages until it is over. Nobody else looks at it meanwhile.
func (s *supervisor) serve() {
	defer close(s.inbox.over)
	for s.session.phase != over {
		select {
		case m := <-s.inbox.messages:
			s.session.handle(m)
		case <-s.idle.woken:
			s.session.handle(message{kind: clientWaits})
		}
	}
}

// prepare sees to all that the VM needs, up to the network.
func (s *supervisor) prepare() error {
	s.found = frozen.Inspect(s.machine.Dir().Frozen())
	parts, err := gather(s.upToVM, s.machine)
	if err != nil {
		return err
	}
	s.resources = *parts
	if err := parts.fit(); err != nil {
		return err
	}
	if err := s.keepSuspended(); err != nil {
		return err
	}
	s.board.set(func(st *control.Status) {
		st.Hypervisor = parts.hypervisor.Release()
		st.Accelerator, st.AcceleratorReason = s.resources.accel.Name, s.resources.accel.Reason
	})
	if err := s.reread(); err != nil { // what was set while nobody could be told
		return err
	}
	s.board.step("prepared", "Booting")
	if err := s.startNetwork(s.ctx); err != nil {
		return err
	}
	s.guest, err = newGuest(s.machine.Dir(), s.board, s.log, &ports{network: s.net, board: s.board, log: s.log}, s.inbox)
	if err != nil {
		return err
	}
	s.channels = channels{s.guest}
	s.beside.Go(func() {
		parts.keepCertificates(s.ctx, renewal, s.tellIdentity, func(err error) { s.guest.trouble(err.Error()) })
	})
	s.beside.Go(func() { s.followHost(s.ctx) })
	if s.resources.noFreeze() == "" {
		s.beside.Go(func() { s.watchIdle(s.ctx) })
	}
	return nil
}

// tellIdentity gives the guest its identity again; one that is not there gets it when it
// comes.
func (s *supervisor) tellIdentity() error {
	if !s.guest.isConnected() {
		return nil
	}
	identity, err := s.resources.guestIdentity()
	if err != nil {
		return err
	}
	return s.guest.send(guestapi.Request{Identity: &identity})
}

// conclude publishes how the run ended.
func (s *supervisor) conclude(err error) {
	var failure *control.Failure
	switch {
	case err == nil || errors.Is(err, errStopped):
		s.log.Info("stopped")
	case !errors.As(err, &failure):
		failure = &control.Failure{Cause: err.Error(), Hint: hint.Of(err)}
		fallthrough
	default:
		s.log.Error("ended", "error", err)
		if err := failure.Keep(s.machine.Dir().Failure()); err != nil {
			s.log.Error("keeping the failure", "error", err)
		}
	}
	s.board.set(func(st *control.Status) {
		st.State, st.Activity, st.Failure = control.Stopped, "", nil // what broke while it ran is over
		if failure != nil {
			st.Failure = failure.Bounded()
		}
	})
}

// startNetwork starts the virtual network and everything that leads into it.
func (s *supervisor) startNetwork(ctx context.Context) error {
	n, err := network.New(s.networkConfig(s.machine))
	if err != nil {
		return fmt.Errorf("starting the network: %w", err)
	}
	s.mu.Lock()
	s.net = n
	n.SetHostAccess(s.access)
	s.mu.Unlock()
	if err := s.sockets.serveCard(ctx, n, s.machine.Dir().NetworkSocket(), s.resources.accel.Frames); err != nil {
		return err
	}
	return s.serveEngine(ctx)
}
