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
	"os/signal"
	"runtime"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/hyve-vm/hyve/internal/control"
	"github.com/hyve-vm/hyve/internal/frozen"
	"github.com/hyve-vm/hyve/internal/guestapi"
	"github.com/hyve-vm/hyve/internal/hint"
	"github.com/hyve-vm/hyve/internal/hypervisor"
	"github.com/hyve-vm/hyve/internal/hypervisor/pick"
	"github.com/hyve-vm/hyve/internal/image"
	"github.com/hyve-vm/hyve/internal/machine"
	"github.com/hyve-vm/hyve/internal/network"
	"github.com/hyve-vm/hyve/internal/trial"
)

// patience is how long a guest may take to shut down cleanly. Docker's own
// default for a container is 10 s; users set minutes for data bases.
const patience = 3 * time.Minute

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

// watchHypervisor logs the hypervisor's events, and passes on those that are about room on
// the host's disk: why there is none, or nil.
func (s *supervisor) watchHypervisor(events <-chan hypervisor.Event) <-chan error {
	stuck := make(chan error)
	go func() {
		defer close(stuck)
		for event := range events {
			s.log.Info("hypervisor event", "event", event.Name)
			switch event.Kind {
			case hypervisor.DiskFailed:
				stuck <- event.Cause
			case hypervisor.WentOn: // unless the write fails again
				stuck <- nil
			}
		}
	}()
	return stuck
}

// errorPause is how often a VM that the host's full disk has paused is resumed,
// to see whether there is room again. Nothing tells when there is.
const errorPause = 5 * time.Second

// room is what helps a VM over a full disk of the host: it is paused at the first write
// that fails, and repeats that write when it goes on, so nothing is lost.
type room struct{ retry, solved *time.Timer }

const noRoom = "the host's disk cannot be written to, and the machine is paused until there is room on it"

// wait has a VM try again after a while.
func (r *room) wait(board *board, vm hypervisor.VM) {
	r.stop()
	board.problem(noRoom)
	r.retry = time.AfterFunc(errorPause, func() { vm.Retry(context.Background()) })
}

// found takes the problem back soon, unless the write fails again.
func (r *room) found(board *board) {
	r.stop()
	r.solved = time.AfterFunc(errorPause/2, func() { board.solved(noRoom) })
}

func (r *room) stop() {
	for _, timer := range []*time.Timer{r.retry, r.solved} {
		if timer != nil {
			timer.Stop()
		}
	}
}

// serveVM implements effects: it speaks with the guest until its VM has ended.
func (s *supervisor) serveVM(vm *machineVM, wasThawed bool) {
	s.board.set(func(st *control.Status) { st.HypervisorID, st.Unconfined = vm.PID, vm.Unconfined })
	s.board.step("hypervisor", "")
	s.warm, s.ready = new(flight), new(flight)
	s.room.stop()
	if !wasThawed {
		s.forwardGuestPorts()
	}
	go func() {
		for why := range vm.stuck {
			m := message{kind: unstuck, vm: vm}
			if why != nil {
				m.kind = stuck
				m.failure = &guestapi.Failed{Phase: guestapi.NewText(guestapi.PhaseDisk), Cause: guestapi.NewProse(why.Error()), Fatal: true}
			}
			s.inbox.post(m)
		}
	}()
	go func() { s.inbox.post(s.converse(vm, wasThawed)) }()
}

// converse speaks with the guest until its VM has ended and all that it said is heard.
func (s *supervisor) converse(vm *machineVM, wasThawed bool) message {
	ctx, cancel := context.WithCancel(s.ctx)
	defer cancel()
	var talk errgroup.Group
	talk.Go(func() error {
		conn, err := s.sockets.guest.accept(ctx)
		if err != nil {
			return err
		}
		return s.guest.converse(ctx, conn, wasThawed, vm.opening)
	})
	if wasThawed {
		defer s.watchThaw(vm)()
	}
	<-vm.Done()
	// What the guest said last is still in the socket, whose end ends the talk.
	// One that never began needs to be told.
	defer time.AfterFunc(time.Second, cancel).Stop()
	err := talk.Wait()
	if errors.Is(err, context.Canceled) {
		err = nil
	}
	s.guest.ports.clear()
	return message{kind: vmEnded, vm: vm, err: err, crashed: errors.Is(vm.Err(), hypervisor.ErrCrashed), words: lastWords(s.logs.console.last())}
}

// answerWords serves the control socket. The returned function waits until
// those who watch have heard the end.
func (s *supervisor) answerWords() (told func()) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := control.Serve(ctx, door(maxWords, 32, s.log).Listener(s.sockets.control), s); err != nil {
			s.log.Error("control socket", "error", err)
		}
	}()
	return func() { cancel(); <-done }
}

// Status implements control.Supervisor.
func (s *supervisor) Status() (control.Status, <-chan struct{}) { return s.board.get() }

// Stop implements control.Supervisor.
func (s *supervisor) Stop(ctx context.Context, request control.StopRequest) error {
	if request.Suspend {
		if status, _ := s.board.get(); status.State == control.Running {
			if reason := s.resources.noFreeze(); reason != "" {
				return fmt.Errorf("suspending the machine: %s", reason)
			}
		}
		return s.inbox.ask(ctx, message{kind: wordSuspend})
	}
	s.log.Info("asked to stop", "kill", request.Kill, "freeze", request.Freeze)
	kind := wordStop
	if request.Kill {
		kind = wordKill
	}
	err := s.inbox.ask(context.WithoutCancel(ctx), message{kind: kind, stop: request})
	if errors.Is(err, errNotRunning) { // any more
		return nil
	}
	return err
}

// Copy implements control.Supervisor.
func (s *supervisor) Copy(ctx context.Context, request control.CopyRequest) error {
	return s.inbox.ask(ctx, message{kind: wordCopy, dir: request.Dir})
}

// syncPatience is how long a guest that is to be killed may take to write to its disk.
const syncPatience = time.Second

// syncGuest has a guest that is about to be killed write what it holds to its disk, as far
// as it does within syncPatience and before its VM ends.
func (s *supervisor) syncGuest(ended <-chan struct{}) {
	ctx, cancel := context.WithTimeout(context.Background(), syncPatience)
	defer cancel()
	done := make(chan error, 1)
	// A guest that is stuck does not even take the question.
	go func() { done <- s.guest.ask(ctx, guestapi.Request{Sync: &struct{}{}}) }()
	select {
	case err := <-done:
		if err != nil {
			s.log.Warn("killing a guest that has not written to its disk", "cause", err)
		}
	case <-ctx.Done():
		s.log.Warn("killing a guest that has not written to its disk", "within", syncPatience)
	case <-ended:
	}
}

// end freezes the VM where that was asked for and can be, or leaves it to be shut down.
func (s *supervisor) end(t task) {
	m := message{kind: unfrozen}
	if t.stop.Freeze && s.resources.accel.Freezes() {
		m = froze(s.freeze(t.run.vm, guestapi.Freeze{}, false))
		if m.err != nil {
			s.log.Warn("shutting down instead of freezing", "cause", m.err)
		}
	}
	s.inbox.post(m)
}

// shutDown asks the guest for its end, and pulls the plug where that is in vain.
func (s *supervisor) shutDown(vm hypervisor.VM, wasThawed bool) {
	if wasThawed { // what runs in it is asked, too
		s.guest.await(vm.Done())
	}
	if s.guest.send(guestapi.Request{Shutdown: &guestapi.Shutdown{}}) != nil {
		// A guest that has not said hello runs nothing yet; one that does not listen is lost.
		vm.Quit(context.Background())
		return
	}
	select {
	case <-vm.Done():
	case <-time.After(patience):
		s.log.Warn("the guest does not shut down; pulling its plug", "after", patience)
		vm.Quit(context.Background())
	}
}

// stopOnSignal shuts the machine down when the host does.
func (s *supervisor) stopOnSignal() {
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT)
	signal.Ignore(syscall.SIGHUP)
	go func() {
		for range signals {
			s.Stop(context.Background(), control.StopRequest{})
		}
	}()
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

// resources is what a machine needs to start, each found and checked.
type resources struct {
	image      *image.Image
	hypervisor hypervisor.Backend
	accel      hypervisor.Verdict
	*identity
}

// fit says why the hypervisor cannot run the image.
func (p *resources) fit() error {
	if p.accel.Channels != hypervisor.Ports {
		return fmt.Errorf("%s reaches guests over vsock, and the image's listens on virtio-serial ports", p.hypervisor.Release())
	}
	return nil
}

// noFreeze is why the machine is not to be frozen, or thawed; empty if it can be. Any
// creation may find out that it cannot, at any time.
func (p *resources) noFreeze() string {
	return trial.NoFreeze(p.current.Load(), p.hypervisor, p.accel)
}

// gather finds them, side by side.
func gather(ctx context.Context, m *machine.Machine) (*resources, error) {
	var p resources
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error {
		store, err := image.Open(m.Home().ImagesDir())
		if err != nil {
			return err
		}
		if p.image, err = store.Find(m.Image, runtime.GOARCH); err != nil {
			return err
		}
		return store.Check(p.image)
	})
	group.Go(func() (err error) {
		if p.hypervisor, err = pick.Find(ctx, m.Hypervisor, m.Home().CacheDir()); err != nil {
			return err
		}
		p.accel = p.hypervisor.Accelerator(ctx)
		return nil
	})
	group.Go(func() (err error) {
		p.identity, err = openIdentity(m)
		return err
	})
	if err := group.Wait(); err != nil {
		return nil, err
	}
	return &p, nil
}
