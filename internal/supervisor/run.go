// Package supervisor is the process that owns one running VM: it starts the
// hypervisor, carries the network, speaks with the guest, and answers the words.
package supervisor

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"runtime"
	"runtime/debug"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/hyve-vm/hyve/internal/control"
	"github.com/hyve-vm/hyve/internal/frozen"
	"github.com/hyve-vm/hyve/internal/guestapi"
	"github.com/hyve-vm/hyve/internal/hypervisor/qemu"
	"github.com/hyve-vm/hyve/internal/image"
	"github.com/hyve-vm/hyve/internal/machine"
	"github.com/hyve-vm/hyve/internal/network"
)

// patience is how long a guest may take to shut down in order. Docker's own
// default for a container is 10 s; users set minutes for data bases.
const patience = 3 * time.Minute

// supervisor is one running machine.
type supervisor struct {
	machine *machine.Machine
	log     *slog.Logger
	logs    *logs
	board   *board
	sockets *sockets
	net     *network.Network
	guest   *guest
	parts   parts

	openDoors func()                  // lets clients in that go straight to the guest
	reachable gate                    // open while the engine can be dialled
	rehearsal rehearsal               // for the first who dials it
	cancel    context.CancelCauseFunc // ends the run before the VM runs

	found    *frozen.Find   // to thaw from
	freezing sync.WaitGroup // a freeze that is going on
	copying  sync.Mutex     // held by what keeps the machine from stopping in order
	ungrown  atomic.Bool    // the disk is larger than its file system
	idle     *idle

	mu       sync.Mutex
	vm       *qemu.VM             // nil before it runs
	stopping bool                 // somebody asked for the end
	last     *control.StopRequest // what was asked for last
	access   network.HostAccess   // of the guest to the host
}

// errStopped ends a run that was asked to stop before its VM ran.
var errStopped = errors.New("it was stopped before it was ready")

// Run starts the machine of that name and owns it until its VM has ended:
//
//   - lock: the machine is this process' from here on
//   - listen: the sockets of words, Docker, SSH, hypervisor and guest
//   - ready: the starter is told that it can watch
//   - prepare: image verified, hypervisor found and tried, certificates made
//   - network: gateway, DNS and forwards, in this process
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
	}
	s.reachable.knock = s.idle.wake
	lock, err := m.Dir().Acquire()
	if err != nil {
		ready(err)
		return err
	}
	defer lock.Release()
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
	ctx, s.cancel = context.WithCancelCause(ctx)
	defer s.cancel(nil)
	told := s.answerWords()
	defer told()
	s.stopOnSignal()
	if leash != nil {
		go func() {
			io.Copy(io.Discard, leash)
			s.Stop(ctx, control.StopRequest{Kill: true})
		}()
	}
	os.Remove(m.Dir().Failure())
	ready(nil)

	s.log.Info("starting", "machine", m.Name, "image", m.Image)
	err = s.live(ctx, lock)
	s.end(err)
	return err
}

// live is the part of Run during which there is something to watch.
func (s *supervisor) live(ctx context.Context, lock *machine.Lock) error {
	s.found = frozen.Look(s.machine.Dir().Frozen())
	parts, err := prepare(ctx, s.machine)
	if err != nil {
		return err
	}
	s.parts = *parts
	if err := s.keepSuspended(); err != nil {
		return err
	}
	s.board.set(func(st *control.Status) {
		st.Hypervisor = "QEMU " + parts.qemu.Version.String()
		st.Accelerator, st.AcceleratorReason = s.parts.accel.Name, s.parts.accel.Reason
	})
	if err := s.reread(); err != nil { // what was set while nobody could be told
		return err
	}
	s.board.step("prepared", "Booting")
	if err := s.startNetwork(ctx); err != nil {
		return err
	}
	defer s.net.Close()
	s.guest, err = newGuest(s.machine.Dir(), s.board, s.log, &ports{network: s.net, board: s.board, log: s.log})
	if err != nil {
		return err
	}
	s.guest.rehearse = func() { s.rehearsal.hold(ctx, s.overTLS(s.dialGuest)) }
	s.guest.engineReady = func() { s.engineReady(ctx) }
	s.guest.known = s.openDoors
	s.guest.unknown = s.bootInstead
	s.guest.busy = func(busy bool) { s.idle.update(func() { s.idle.busy = busy }) }
	s.guest.giveUp = func() { s.Stop(ctx, control.StopRequest{}) }
	defer s.guest.close()
	go parts.keepCertificates(ctx, renewal, s.tellIdentity, func(err error) { s.guest.trouble(err.Error()) })
	go s.followHost(ctx)
	if s.parts.accel.Freezes() {
		go s.watchIdle(ctx)
	}
	return s.boot(ctx, lock)
}

// tellIdentity gives the guest its identity again; one that is not there gets it when it
// comes.
func (s *supervisor) tellIdentity() error {
	if !s.guest.isConnected() {
		return nil
	}
	identity, err := s.parts.guestIdentity()
	if err != nil {
		return err
	}
	return s.guest.send(guestapi.Request{Identity: &identity})
}

// errEarlyEnd says that a VM ended, or QEMU crashed, before its guest was up. Under
// emulation a kernel does that once in many boots: before it has a console to say why, or
// by a panic over an instruction that it is patching. Nothing is lost by booting it again.
var errEarlyEnd = errors.New("the VM ended before its guest came up")

// earlyEnds is how often that is taken for bad luck.
const earlyEnds = 2

// boot runs the VM, again if the guest reboots, until it ends.
func (s *supervisor) boot(ctx context.Context, lock *machine.Lock) error {
	for early := 0; ; {
		vm, opening, err := s.powerOn(ctx, lock)
		if err != nil {
			return errors.Join(s.orStopped(err), s.dropIfCold())
		}
		s.board.set(func(st *control.Status) {
			st.HypervisorID = vm.PID()
			st.Unconfined = nil
			for _, gap := range vm.Confinement().Gaps() {
				st.Unconfined = append(st.Unconfined, gap.String())
			}
		})
		s.board.step("hypervisor", "")
		if !s.adopt(vm) {
			vm.Kill()
		}
		if status, _ := s.board.get(); !status.Thawed {
			s.openDoors()
		}
		again, err := s.attend(ctx, vm, opening)
		if errors.Is(err, errEarlyEnd) && early < earlyEnds {
			early++
			s.log.Warn("booting again", "cause", err)
		} else if !again {
			return err
		}
		if s.idle.isAsleep() {
			if err := s.sleep(ctx); err != nil {
				return errors.Join(s.orStopped(err), s.dropIfCold())
			}
			continue
		}
		s.reachable.shut()
		s.rehearsal.forget()
		if err := s.takeNextReboot(); err != nil {
			return err
		}
		s.board.reboot()
	}
}

// errorPause is how often a VM that the host's full disk has paused is let go on,
// to see whether there is room again. Nothing tells when there is.
const errorPause = 5 * time.Second

// watchHypervisor logs the hypervisor's events, and helps a VM over a full disk
// of the host: QEMU pauses it at the first write that fails, and repeats that
// write when it goes on, so nothing is lost. A machine that somebody waits for
// ends instead.
func (s *supervisor) watchHypervisor(ctx context.Context, vm *qemu.VM) {
	const line = "the host's disk cannot be written, the machine is paused: make room"
	solved := time.AfterFunc(0, func() {})
	retry := time.AfterFunc(0, func() {})
	defer retry.Stop()
	for event := range vm.Events() {
		s.log.Info("hypervisor event", "event", event.Name)
		switch event.Name {
		case qemu.EventBlockIOError:
			if status, _ := s.board.get(); status.State == control.Starting {
				s.guest.fail(&guestapi.Failed{Phase: guestapi.NewText(guestapi.PhaseDisk), Cause: guestapi.NewProse(diskError(event)), Fatal: true})
				go vm.Quit(ctx)
				continue
			}
			solved.Stop()
			s.board.problem(line)
			retry.Stop()
			retry = time.AfterFunc(errorPause, func() { vm.Retry(ctx) })
		case qemu.EventResume: // unless the write fails again
			solved = time.AfterFunc(errorPause/2, func() { s.board.solved(line) })
		}
	}
}

func diskError(event qemu.Event) string {
	var data qemu.BlockIOErrorData
	if json.Unmarshal(event.Data, &data) != nil || data.Reason == "" {
		return "the host's disk cannot be written"
	}
	return "the host's disk cannot be written: " + strings.ToLower(data.Reason)
}

// adopt makes vm the one that requests are about, unless the machine was asked
// to stop meanwhile.
func (s *supervisor) adopt(vm *qemu.VM) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.vm = vm
	return !s.stopping
}

// attend speaks with the guest until its VM has ended, and tells whether it
// wants to be started again.
func (s *supervisor) attend(ctx context.Context, vm *qemu.VM, opening func() (guestapi.Request, error)) (again bool, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var talk errgroup.Group
	talk.Go(func() error {
		conn, err := s.sockets.guest.accept(ctx)
		if err != nil {
			return err
		}
		status, _ := s.board.get()
		return s.guest.converse(ctx, conn, status.Thawed, opening)
	})
	go s.watchHypervisor(ctx, vm)
	if status, _ := s.board.get(); status.Thawed {
		defer s.watchThaw()()
	}
	<-vm.Done()
	// What the guest said last is still in the socket, whose end ends the talk.
	// One that never began needs to be told.
	defer time.AfterFunc(time.Second, cancel).Stop()
	talkErr := talk.Wait()
	s.guest.ports.clear()
	s.freezing.Wait()

	off, failed := s.guest.last()
	s.mu.Lock()
	stopping := s.stopping
	s.vm = nil
	s.mu.Unlock()
	switch {
	case failed != nil:
		return false, failureOf(failed)
	case stopping:
		return false, nil
	case s.idle.isAsleep():
		return true, nil
	case off != nil:
		return off.Reboot, nil
	case errors.Is(vm.Err(), qemu.ErrCrashed) && !s.guest.met():
		return false, fmt.Errorf("%w: %w", errEarlyEnd, vm.Err())
	case vm.Err() != nil:
		return false, fmt.Errorf("the VM ended: %w", vm.Err())
	case talkErr != nil && !errors.Is(talkErr, context.Canceled):
		return false, talkErr
	}
	words := lastWords(s.logs.console.last())
	// A thawed guest has a memory to lose, which a boot would pass over in silence.
	if status, _ := s.board.get(); !s.guest.met() || status.State == control.Starting && !status.Thawed {
		return false, fmt.Errorf("%w: %s", errEarlyEnd, words)
	}
	return false, &control.Failure{Cause: "the VM ended by itself: " + words}
}

// orStopped is err, unless it came because the machine was asked to stop.
func (s *supervisor) orStopped(err error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stopping {
		return errStopped
	}
	return err
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
		return s.suspend(ctx)
	}
	s.mu.Lock()
	vm, again := s.vm, s.stopping
	s.stopping = true
	s.last = &request
	s.mu.Unlock()
	s.log.Info("asked to stop", "kill", request.Kill, "freeze", request.Freeze)
	var ran bool
	s.board.set(func(st *control.Status) {
		ran = st.State == control.Running
		if st.State != control.Stopped {
			st.State, st.Activity = control.Stopping, "Stopping"
		}
	})
	switch {
	case vm == nil:
		s.cancel(errStopped)
	case request.Kill:
		if request.Sync {
			s.syncGuest(vm.Done())
		}
		return vm.Kill()
	case again: // it is on its way, unless a suspension fails
	default:
		s.freezing.Go(func() {
			s.copying.Lock()
			defer s.copying.Unlock()
			if request.Freeze && ran && s.parts.accel.Freezes() {
				err := s.freeze(vm, guestapi.Freeze{}, false)
				if err == nil {
					return
				}
				s.log.Warn("shutting down instead of freezing", "cause", err)
			}
			s.shutDown(vm)
		})
	}
	return nil
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

// shutDown asks the guest for its end, and pulls the plug where that is in vain.
func (s *supervisor) shutDown(vm *qemu.VM) {
	late := time.AfterFunc(patience, func() {
		s.log.Warn("the guest does not shut down; pulling its plug", "after", patience)
		vm.Quit(context.Background())
	})
	if s.guest.send(guestapi.Request{Shutdown: &guestapi.Shutdown{}}) != nil {
		// A guest that has not said hello runs nothing yet; one that does not listen is lost.
		late.Stop()
		go vm.Quit(context.Background())
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

// end publishes how the run ended.
func (s *supervisor) end(err error) {
	var failure *control.Failure
	switch {
	case err == nil || errors.Is(err, errStopped):
		s.log.Info("stopped")
	case !errors.As(err, &failure):
		failure = &control.Failure{Cause: err.Error()}
		var hinted interface{ Hint() string }
		if errors.As(err, &hinted) {
			failure.Hint = hinted.Hint()
		}
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
	go s.net.Serve(ctx, s.sockets.network)
	return s.serveEngine(ctx)
}

// parts is what a machine needs to start, each found and checked.
type parts struct {
	image *image.Image
	qemu  *qemu.QEMU
	accel qemu.Verdict
	*identity
}

func (p *parts) features() qemu.Features { return p.qemu.Features(p.accel.Name) }

// prepare gathers the parts, side by side.
func prepare(ctx context.Context, m *machine.Machine) (*parts, error) {
	var p parts
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
		if p.qemu, err = qemu.Find(ctx, m.QEMU, m.Home().CacheDir()); err != nil {
			return err
		}
		p.accel = p.qemu.Accelerator(ctx)
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
