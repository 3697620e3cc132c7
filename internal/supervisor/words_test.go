package supervisor

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hyve-vm/hyve/internal/control"
	"github.com/hyve-vm/hyve/internal/frozen"
	"github.com/hyve-vm/hyve/internal/guestapi"
	"github.com/hyve-vm/hyve/internal/hypervisor"
	"github.com/hyve-vm/hyve/internal/image"
	"github.com/hyve-vm/hyve/internal/machine"
	"github.com/hyve-vm/hyve/internal/network"
	"github.com/hyve-vm/hyve/internal/sparse"
)

// A fakeBackend has one accelerator at a time.
type fakeBackend struct{ hypervisor.Backend }

func (fakeBackend) Release() string                        { return "Fake 1.0" }
func (fakeBackend) KernelCmdline(string) string            { return "" }
func (fakeBackend) Shape(hypervisor.Config, string) string { return "shape" }
func (fakeBackend) ForState(now hypervisor.Verdict, of hypervisor.Origin) (hypervisor.Verdict, error) {
	switch {
	case now.Name != of.Accelerator:
		return now, &hypervisor.AcceleratorError{Wanted: of.Accelerator, Now: now}
	case now.Processor != of.Processor:
		return now, &hypervisor.ProcessorError{Wanted: of.Processor, Now: now.Processor}
	}
	return now, nil
}

// A fakeVM does what a hypervisor does with a VM, without one.
type fakeVM struct {
	hypervisor.VM
	freeze func() error // instead of a freeze that goes well, if it is set
	stuck  bool         // it does not quit

	mu     sync.Mutex
	done   chan struct{}
	err    error
	paused bool
}

var errCrash = errors.New("QEMU was ended by a signal: killed")

func (vm *fakeVM) PID() int              { return os.Getpid() }
func (vm *fakeVM) Done() <-chan struct{} { return vm.done }
func (vm *fakeVM) Err() error            { return vm.err }
func (vm *fakeVM) Kill() error           { vm.end(nil); return nil }

func (vm *fakeVM) Quit(context.Context) error {
	if vm.stuck {
		return context.DeadlineExceeded
	}
	return vm.Kill()
}

func (vm *fakeVM) ResizeDisk(context.Context, string, int64) error { return nil }

func (vm *fakeVM) Pause(context.Context) error  { vm.pause(true); return nil }
func (vm *fakeVM) Resume(context.Context) error { vm.pause(false); return nil }

func (vm *fakeVM) Freeze(_ context.Context, devices string, _ *sparse.Writer) error {
	if vm.freeze != nil {
		return vm.freeze()
	}
	vm.pause(true)
	return os.WriteFile(devices, []byte("devices"), 0o600)
}

func (vm *fakeVM) pause(yes bool) {
	vm.mu.Lock()
	vm.paused = yes
	vm.mu.Unlock()
}

func (vm *fakeVM) end(err error) {
	vm.mu.Lock()
	defer vm.mu.Unlock()
	select {
	case <-vm.done:
	default:
		vm.err = err
		close(vm.done)
	}
}

// A scene is a machine that runs: the supervisor with its session, its files and its end
// of the conversation are real; hypervisor and guest are not.
type scene struct {
	*supervisor
	t     *testing.T
	vm    *fakeVM
	ended chan struct{} // the session is over

	mu      sync.Mutex
	heard   []string // by the guest
	refuses bool     // to be frozen
	shown   []control.State
}

func newScene(t *testing.T) *scene { return newSceneIn(t, running) }

// newSceneIn is newScene of a machine in another phase.
func newSceneIn(t *testing.T, phase phase) *scene {
	t.Helper()
	m := testMachine(t)
	if err := os.WriteFile(m.Dir().Disk(), []byte("disk"), 0o600); err != nil {
		t.Fatal(err)
	}
	id, err := openIdentity(m)
	if err != nil {
		t.Fatal(err)
	}
	n, err := network.New(network.Config{Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { n.Close() })
	g, in, out, _ := testGuest(t.Context(), t)
	vm := &fakeVM{done: make(chan struct{})}
	s := &scene{t: t, vm: vm, ended: make(chan struct{}), supervisor: &supervisor{
		machine: m, guest: g, channels: channels{g}, net: n, board: newBoard(control.Status{}), log: g.log, inbox: newMailbox(), idle: newIdle(0), ctx: t.Context(),
		resources: resources{identity: id, accel: hypervisor.Verdict{Name: "tcg"}, hypervisor: fakeBackend{}, image: &image.Image{}},
	}}
	s.reachable.onWait = s.idle.wake
	s.reachable.open()
	ran := &machineVM{Instance: &hypervisor.Instance{VM: vm}}
	s.session = session{effects: s, phase: phase, run: run{vm: ran, cameUp: true, engineUp: true}}
	s.show(control.Running, "")
	go s.answer(in, out)
	go func() {
		<-vm.done
		s.inbox.post(message{kind: vmEnded, vm: ran})
	}()
	go func() {
		defer close(s.ended)
		s.serve()
	}()
	return s
}

// answer is the guest.
func (s *scene) answer(in *guestapi.Reader[guestapi.Request], out *guestapi.Writer[guestapi.Event]) {
	for {
		request, err := in.Read()
		if err != nil {
			return
		}
		var reply guestapi.Reply
		switch {
		case request.Freeze != nil:
			if s.hear("freeze") {
				reply.Error = guestapi.NewProse("something runs")
			}
		case request.Identity != nil:
			s.hear("identity")
		case request.Unfreeze != nil:
			s.hear("unfreeze")
		case request.Shutdown != nil:
			s.hear("shutdown")
			s.inbox.post(message{kind: poweredOff, poweroff: &guestapi.PowerOff{}})
			s.vm.end(nil)
		}
		if reply.ID = request.ID; reply.ID != 0 {
			out.Write(guestapi.Event{Reply: &reply})
		}
	}
}

func (s *scene) hear(word string) (refuses bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.heard = append(s.heard, word)
	return s.refuses
}

// publish is the supervisor's, and keeps what is shown.
func (s *scene) publish(was, now phase, m message) {
	s.supervisor.publish(was, now, m)
	status, _ := s.board.get()
	s.mu.Lock()
	s.shown = append(s.shown, status.State)
	s.mu.Unlock()
}

// hears waits until the guest has heard that, and nothing else.
func (s *scene) hears(want ...string) {
	s.t.Helper()
	var heard []string
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		s.mu.Lock()
		heard = slices.Clone(s.heard)
		s.mu.Unlock()
		if slices.Equal(heard, want) {
			return
		}
	}
	s.t.Errorf("the guest has heard %q, want %q", heard, want)
}

// isOver waits for the session's end.
func (s *scene) isOver(cause error) {
	s.t.Helper()
	select {
	case <-s.ended:
	case <-time.After(20 * time.Second):
		s.t.Fatal("it does not end")
	}
	if err := errors.Join(s.session.err, s.dropIfCold()); !errors.Is(err, cause) || err != nil && cause == nil {
		s.t.Errorf("it has ended with %v, want %v", err, cause)
	}
}

// isFrozen looks for the machine's state.
func (s *scene) isFrozen(there, suspended bool) {
	s.t.Helper()
	if e, r := frozen.Exists(s.machine.Dir().Frozen()); e != there || r != suspended {
		s.t.Errorf("there is a state: %t, suspended: %t; want %t, %t", e, r, there, suspended)
	}
	if left, _ := filepath.Glob(s.machine.Dir().Frozen() + ".*"); len(left) > 0 {
		s.t.Errorf("left: %q", left)
	}
}

func (s *scene) stop(request control.StopRequest) {
	s.t.Helper()
	if err := s.Stop(s.t.Context(), request); err != nil {
		s.t.Error(err)
	}
}

func TestSuspend(t *testing.T) {
	s := newScene(t)
	s.stop(control.StopRequest{Suspend: true})
	s.isOver(nil)
	s.isFrozen(true, true)
	s.hears("freeze")
	if err := s.Stop(t.Context(), control.StopRequest{Suspend: true}); !errors.Is(err, errNotRunning) {
		t.Errorf("a second time: %v", err)
	}
}

// A stop says what it waits for where the host's disk is full.
func TestStopWithoutRoom(t *testing.T) {
	s := newScene(t)
	s.board.problem(noRoom)
	reached, hold := make(chan struct{}), make(chan struct{})
	s.vm.freeze = func() error { close(reached); <-hold; return errors.New("no space left on device") }
	s.stop(control.StopRequest{Freeze: true})
	<-reached
	if status, _ := s.board.get(); status.State != control.Stopping || !strings.Contains(status.Activity, "room on the host's disk") {
		t.Errorf("it is %s: %s", status.State, status.Activity)
	}
	close(hold)
	s.isOver(nil)
}

// A hypervisor that does not quit when its machine is frozen is killed, and the machine is
// suspended all the same.
func TestSuspendStuckHypervisor(t *testing.T) {
	s := newScene(t)
	s.vm.stuck = true
	s.stop(control.StopRequest{Suspend: true})
	s.isOver(nil)
	s.isFrozen(true, true)
}

// A suspension that cannot be has the machine run on as before, and a stop that came
// meanwhile stops it.
func TestSuspendInVain(t *testing.T) {
	s := newScene(t)
	s.refuses = true
	suspend := func() {
		if err := s.Stop(t.Context(), control.StopRequest{Suspend: true}); err == nil || !strings.Contains(err.Error(), "runs on: something runs") {
			t.Errorf("who asked is told %v", err)
		}
	}
	suspend()
	if status, _ := s.board.get(); status.State != control.Running {
		t.Errorf("it is %s", status.State)
	}
	s.hears("freeze", "unfreeze")

	reached, hold := make(chan struct{}), make(chan struct{})
	s.mu.Lock()
	s.refuses = false
	s.mu.Unlock()
	s.vm.freeze = func() error { close(reached); <-hold; return errors.New("something runs") }
	var both sync.WaitGroup
	both.Go(suspend)
	<-reached
	s.stop(control.StopRequest{})
	close(hold)
	both.Wait()
	s.isOver(nil)
	s.isFrozen(false, false)
	s.hears("freeze", "unfreeze", "freeze", "unfreeze", "shutdown")
}

// A suspension whose VM crashes is none, and the machine has not stopped because somebody
// wanted that: whichever is heard of first, who asked is told and the crash is reported.
func TestSuspendRacesCrash(t *testing.T) {
	for name, wait := range map[string]time.Duration{"the end is heard first": 100 * time.Millisecond, "at once": 0} {
		t.Run(name, func(t *testing.T) {
			s := newScene(t)
			s.vm.freeze = func() error {
				s.vm.end(errCrash)
				time.Sleep(wait)
				return errors.New("QEMU's monitor is closed")
			}
			if err := s.Stop(t.Context(), control.StopRequest{Suspend: true}); err == nil || !strings.Contains(err.Error(), "monitor is closed") {
				t.Errorf("who asked is told %v", err)
			}
			s.isOver(errCrash)
			s.isFrozen(false, false)
			if !slices.Contains(s.shown, control.Stopping) {
				t.Errorf("it is shown to be %q", s.shown)
			}
		})
	}
}

// A kill waits for nothing, not even for a suspension.
func TestKillWhileSuspending(t *testing.T) {
	s := newScene(t)
	reached := make(chan struct{})
	s.vm.freeze = func() error { close(reached); <-s.vm.done; return errors.New("QEMU's monitor is closed") }
	var both sync.WaitGroup
	both.Go(func() {
		if err := s.Stop(t.Context(), control.StopRequest{Suspend: true}); err == nil {
			t.Error("it is suspended")
		}
	})
	<-reached
	s.stop(control.StopRequest{Kill: true, Sync: true})
	both.Wait()
	s.isOver(nil)
	s.isFrozen(false, false)
}

// A stop freezes the machine, with nothing in it; where that cannot be it shuts down.
func TestStopFreezes(t *testing.T) {
	s := newScene(t)
	s.stop(control.StopRequest{Freeze: true})
	s.isOver(nil)
	s.isFrozen(true, false)
	s.hears("freeze")

	s = newScene(t)
	s.refuses = true
	s.stop(control.StopRequest{Freeze: true})
	s.isOver(nil)
	s.isFrozen(false, false)
	s.hears("freeze", "shutdown")
}

// Copies are made one after another, each with the machine's memory and its disk; it runs
// on, and a stop waits for the one that is being made.
func TestCopyRunning(t *testing.T) {
	s := newScene(t)
	to := make([]machine.Dir, 3)
	var copies sync.WaitGroup
	for i := range to {
		to[i] = machine.Dir(t.TempDir())
		copies.Go(func() {
			if err := s.Copy(t.Context(), control.CopyRequest{Dir: string(to[i])}); err != nil {
				t.Error(err)
			}
		})
	}
	copies.Wait()
	for _, dir := range to {
		if data, err := os.ReadFile(dir.Disk()); err != nil || string(data) != "disk" {
			t.Errorf("the copied disk holds %q, %v", data, err)
		}
		if exists, suspended := frozen.Exists(dir.Frozen()); !exists || !suspended {
			t.Error("the copy has no memory")
		}
	}
	s.hears("freeze", "unfreeze", "freeze", "unfreeze", "freeze", "unfreeze")
	if s.vm.paused {
		t.Error("it is paused")
	}
	s.isFrozen(false, false)

	reached, hold := make(chan struct{}), make(chan struct{})
	s.vm.freeze = func() error { close(reached); <-hold; return errors.New("the disk is full") }
	copies.Go(func() {
		if err := s.Copy(t.Context(), control.CopyRequest{Dir: t.TempDir()}); err == nil {
			t.Error("there is a copy")
		}
	})
	<-reached
	s.stop(control.StopRequest{})
	if status, _ := s.board.get(); status.State != control.Stopping {
		t.Errorf("it is %s", status.State)
	}
	close(hold)
	copies.Wait()
	s.isOver(nil)
}

// New keys and certificates reach a machine that is just being copied when that is over.
func TestIdentifyWhileCopying(t *testing.T) {
	s := newScene(t)
	reached, hold := make(chan struct{}), make(chan struct{})
	s.vm.freeze = func() error { close(reached); <-hold; return errors.New("the disk is full") }
	var both sync.WaitGroup
	both.Go(func() {
		if err := s.Copy(t.Context(), control.CopyRequest{Dir: t.TempDir()}); err == nil {
			t.Error("there is a copy")
		}
	})
	<-reached
	both.Go(func() {
		if err := s.Identify(t.Context()); err != nil {
			t.Error(err)
		}
	})
	time.Sleep(20 * time.Millisecond) // to where it would be told too early
	close(hold)
	both.Wait()
	s.hears("freeze", "unfreeze", "identity")
	s.stop(control.StopRequest{})
	s.isOver(nil)
	if err := s.Identify(t.Context()); !errors.Is(err, errNotRunning) {
		t.Errorf("of a machine that has stopped: %v", err)
	}
}

// A machine that has just been woken was told of its keys before there were new ones: it
// hears of those when it is up.
func TestIdentifyWhileWaking(t *testing.T) {
	s := newSceneIn(t, stirring)
	var told sync.WaitGroup
	told.Go(func() {
		if err := s.Identify(t.Context()); err != nil {
			t.Error(err)
		}
	})
	time.Sleep(20 * time.Millisecond) // to where it would be told too early
	s.hears()
	s.inbox.post(message{kind: engineIsUp})
	told.Wait()
	s.hears("identity")
	s.stop(control.StopRequest{})
	s.isOver(nil)
}

// A machine that is asleep has a state. It is kept at a stop, and dropped at a cold one;
// whoever knocks while it falls asleep, or is refused to, finds it awake.
func TestFallAsleep(t *testing.T) {
	for name, cold := range map[string]bool{"stopped": false, "stopped cold": true} {
		t.Run(name, func(t *testing.T) {
			s := newScene(t)
			s.inbox.post(message{kind: quiet})
			for status, changed := s.board.get(); !status.Asleep; status, changed = s.board.get() {
				<-changed
			}
			if status, _ := s.board.get(); status.State != control.Running {
				t.Errorf("it is %s", status.State)
			}
			s.isFrozen(true, false)
			s.stop(control.StopRequest{Freeze: !cold})
			s.isOver(nil)
			s.isFrozen(!cold, false)
		})
	}
	s := newScene(t)
	s.refuses = true
	s.inbox.post(message{kind: quiet})
	s.hears("freeze", "unfreeze")
	if err := s.reachable.wait(t.Context()); err != nil {
		t.Error(err)
	}
	s.stop(control.StopRequest{})
	s.isOver(nil)
}

// A thawed guest that runs when its start is called off is asked to shut down, like one that
// has been up for long: what runs in it has its time to end.
func TestStopAsItGoesOn(t *testing.T) {
	m := testMachine(t)
	board, log := newBoard(control.Status{}), slog.New(slog.DiscardHandler)
	s := &supervisor{machine: m, board: board, log: log, logs: &logs{}, inbox: newMailbox(), idle: newIdle(0), ctx: t.Context(), forwardGuestPorts: func() {}}
	s.upToVM, s.callOff = context.WithCancelCause(s.ctx)
	defer s.callOff(nil)
	s.session = session{effects: s, phase: starting}
	n, err := network.New(network.Config{Log: log})
	if err != nil {
		t.Fatal(err)
	}
	defer n.Close()
	if err := os.MkdirAll(m.Dir().Logs(), 0o700); err != nil {
		t.Fatal(err)
	}
	if s.sockets, err = listen(m.Dir()); err != nil {
		t.Fatal(err)
	}
	defer s.sockets.close()
	if s.guest, err = newGuest(m.Dir(), board, log, &ports{network: n, board: board, log: log}, s.inbox); err != nil {
		t.Fatal(err)
	}
	defer s.guest.close()
	s.warmConn.conn, _ = net.Pipe() // it is made already
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		s.serve()
	}()
	if err := s.Stop(t.Context(), control.StopRequest{}); err != nil {
		t.Fatal(err)
	}
	if s.upToVM.Err() == nil {
		t.Error("the start is not called off")
	}

	vm := &fakeVM{done: make(chan struct{})}
	s.inbox.post(message{kind: thawed, vm: &machineVM{Instance: &hypervisor.Instance{VM: vm}, opening: func() (guestapi.Request, error) {
		return guestapi.Request{Identity: &guestapi.Identity{}}, nil
	}}})
	time.Sleep(50 * time.Millisecond) // the guest takes its time to say hello
	conn, err := net.Dial("unix", m.Dir().GuestSocket())
	if err != nil {
		t.Fatal(err)
	}
	conn.SetDeadline(time.Now().Add(greetingPatience / 2))
	in, out := guestapi.NewReader[guestapi.Request](conn), guestapi.NewWriter[guestapi.Event](conn)
	hello := read(t, in).Hello
	say(t, out, guestapi.Event{Hello: &guestapi.GuestHello{Version: guestapi.Version, Session: hello.Session}})
	for read(t, in).Shutdown == nil {
	}
	say(t, out, guestapi.Event{PowerOff: &guestapi.PowerOff{}})
	conn.Close()
	vm.end(nil)
	<-ended
	if s.session.err != nil {
		t.Error(s.session.err)
	}
}
