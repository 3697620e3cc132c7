package supervisor

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/hyve-vm/hyve/internal/control"
	"github.com/hyve-vm/hyve/internal/disk"
	"github.com/hyve-vm/hyve/internal/frozen"
	"github.com/hyve-vm/hyve/internal/guestapi"
	"github.com/hyve-vm/hyve/internal/hypervisor"
	"github.com/hyve-vm/hyve/internal/machine"
)

// hardware is the VM of the machine, as it is now.
func (s *supervisor) hardware() hypervisor.Config {
	return vmConfig(s.resources.current.Load(), s.resources.image, s.resources.accel.Kernel, s.resources.hypervisor.KernelCmdline(s.resources.accel.Name), newGeneration())
}

// shape names everything that must be the same for a frozen state to be thawed,
// but the disk.
func (s *supervisor) shape() string {
	m := s.resources.current.Load()
	words := slices.Concat([]string{
		s.resources.hypervisor.Shape(s.hardware(), s.resources.accel.Name),
		s.resources.image.Digest,
	}, m.EngineOptions, m.EngineEnv)
	sum := sha256.Sum256([]byte(strings.Join(words, "\x00")))
	return hex.EncodeToString(sum[:])
}

// keepSuspended sees to it that a suspended machine goes on with the accelerator and the
// processor that it was suspended with, and is an error where those cannot be had: what runs
// in the machine would be lost by a boot.
func (s *supervisor) keepSuspended() error {
	dir := s.machine.Dir().Frozen()
	if _, suspended := frozen.Exists(dir); !suspended {
		return nil
	}
	var of hypervisor.Origin
	of.Accelerator, of.Processor = frozen.Origin(dir)
	accel, err := s.resources.hypervisor.ForState(s.resources.accel, of)
	if err != nil {
		hint := "hyve doctor tries again"
		switch other := (*hypervisor.ProcessorError)(nil); {
		case errors.As(err, &other):
			hint = "it goes on when this host has that processor and that kernel again"
		case s.resources.accel.Hint != "":
			hint = s.resources.accel.Hint + "; " + hint
		}
		return &suspendedError{s.machine.Name, hint, err}
	}
	s.resources.accel = accel
	if reason := s.resources.noFreeze(); reason != "" {
		return &suspendedError{s.machine.Name, "hyve image build --freeze tries again", errors.New(reason)}
	}
	return nil
}

// A suspendedError says why a suspended machine cannot go on, and so is left alone.
type suspendedError struct {
	name, hint string // the latter how to go on with the machine's memory
	cause      error
}

func (e *suspendedError) Error() string {
	return "it stays suspended: " + e.cause.Error()
}
func (e *suspendedError) Unwrap() error { return e.cause }

// Hint says how to go on, with the machine's memory and without.
func (e *suspendedError) Hint() string {
	return e.hint + "; hyve start --cold " + e.name + " boots it from its disk, without what ran in its memory"
}

// powerOn starts the VM: from the machine's frozen state if that fits, otherwise by
// booting. What comes of it is a message.
func (s *supervisor) powerOn(reboot bool) {
	if reboot {
		s.warmConn.forget()
		if err := s.takeNextReboot(); err != nil {
			s.inbox.post(message{kind: failed, err: err})
			return
		}
	}
	ran, opening := thawed, s.resources.identify
	options := hypervisor.Options{
		Accel:      s.resources.accel.Name,
		ExtraFiles: []*os.File{s.lock.File()},
		Stderr:     &s.logs.hypervisor,
		Console:    &s.logs.console,
	}
	s.logs.console.begin()
	vm, err := s.thaw(s.upToVM, options)
	unfit := (*frozen.MisfitError)(nil)
	if errors.As(err, &unfit) {
		s.log.Warn("booting", "cause", unfit)
		s.board.set(func(st *control.Status) { st.BootReason = unfit.Error() })
	}
	if errors.As(err, &unfit) || errors.Is(err, frozen.ErrNone) {
		ran, opening = booted, s.resources.configure
		vm, err = s.bootDisk(options)
	}
	if err != nil {
		s.inbox.post(message{kind: failed, err: err})
		return
	}
	s.board.set(func(st *control.Status) { st.Thawed, st.MemoryShared = ran == thawed, vm.SharesMemory })
	s.inbox.post(message{kind: ran, vm: &machineVM{Instance: vm, opening: opening, stuck: s.watchHypervisor(vm.Events)}})
}

// bootDisk starts the VM from its disk, which is made as large as it is to be.
func (s *supervisor) bootDisk(options hypervisor.Options) (*hypervisor.Instance, error) {
	s.inbox.post(message{kind: bootBegins})
	s.board.set(func(st *control.Status) { st.Thawed, st.MemoryShared = false, false })
	s.ungrown.Store(false) // the guest looks when it boots
	if err := disk.Grow(s.machine.Dir().Disk(), s.resources.current.Load().Disk); err != nil {
		return nil, err
	}
	return s.resources.hypervisor.Start(s.upToVM, s.hardware(), options)
}

// thaw starts the VM from the machine's frozen state, which is gone afterwards if its guest
// may have run. Without a VM the error is frozen.ErrNone or a *frozen.MisfitError if the
// machine can boot instead.
func (s *supervisor) thaw(ctx context.Context, options hypervisor.Options) (*hypervisor.Instance, error) {
	dir := s.machine.Dir()
	if reason := s.resources.noFreeze(); reason != "" {
		if err := frozen.Drop(dir.Frozen()); err != nil {
			return nil, err
		}
		s.board.set(func(st *control.Status) { st.BootReason = reason })
		return nil, frozen.ErrNone
	}
	if s.found == nil { // at a boot after a boot
		s.found = frozen.Inspect(dir.Frozen())
	}
	found, shape := s.found, s.shape()
	s.found = nil
	if !found.MightFit(shape, dir.Disk()) {
		_, err := found.Take(shape, dir.Disk())
		return nil, err
	}
	_, suspended := frozen.Exists(dir.Frozen())
	var state *frozen.State
	vm, err := resume(ctx, suspended, func() (_ takenState, err error) {
		state, err = found.Take(shape, dir.Disk())
		return state, err
	}, func(ctx context.Context, take func() error) (*hypervisor.Instance, error) {
		// It takes as long to start as it takes to look at a state.
		options.Thaw = &hypervisor.State{Devices: found.Devices, Memory: found.Memory}
		options.Take = func() (hypervisor.State, error) {
			if err := take(); err != nil {
				return hypervisor.State{}, err
			}
			return hypervisor.State{Devices: state.Devices, Memory: state.Memory}, nil
		}
		return s.resources.hypervisor.Start(ctx, s.hardware(), options)
	})
	unfit, kept := (*frozen.MisfitError)(nil), (*keptError)(nil)
	switch {
	case errors.As(err, &kept):
		err = &suspendedError{s.machine.Name, "hyve start " + s.machine.Name + " tries again", kept.cause}
	case errors.As(err, &unfit) || errors.Is(err, frozen.ErrNone):
		s.sockets.guest.forget()
		if dropped := frozen.Drop(dir.Frozen()); dropped != nil {
			err = dropped
		}
	}
	return vm, err
}

// thawPatience bounds how long a thawed guest may take to say who it is; it takes a
// fraction of a second. Starting its containers comes later and takes what it takes.
const thawPatience = time.Minute

// watchThaw tells of a thawed guest that does not wake up.
func (s *supervisor) watchThaw(vm *machineVM) (stop func() bool) {
	return time.AfterFunc(thawPatience, func() { s.inbox.post(message{kind: unfit, vm: vm}) }).Stop
}

// freeze ends the VM so that the next start can go on from where it is: suspended, if
// that is more than an idle engine. After an error the guest still runs, or nothing
// does.
func (s *supervisor) freeze(vm hypervisor.VM, how guestapi.Freeze, suspended bool) error {
	if reason := s.resources.noFreeze(); reason != "" {
		return errors.New(reason)
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	dir := s.machine.Dir()
	draft, err := s.capture(ctx, vm, dir, how, suspended)
	if err != nil {
		return err
	}
	defer draft.Discard()
	if err := s.endFrozen(vm); err != nil {
		return fmt.Errorf("ending a frozen VM: %w", err)
	}
	if err := draft.Commit(s.shape(), dir.Disk()); err != nil {
		s.log.Warn("the next start boots", "cause", err)
		if suspended {
			return &lostError{err}
		}
	}
	return nil
}

// quitPatience is how long a hypervisor may take to end when its VM is frozen. Its disks are
// written by then, so nothing is lost if it is killed.
const quitPatience = 30 * time.Second

// endFrozen ends a VM that is frozen.
func (s *supervisor) endFrozen(vm hypervisor.VM) error {
	ctx, cancel := context.WithTimeout(context.Background(), quitPatience)
	defer cancel()
	err := vm.Quit(ctx)
	if err == nil {
		return nil
	}
	s.log.Warn("killing the hypervisor of a frozen VM", "cause", err)
	if killed := vm.Kill(); killed != nil {
		return errors.Join(err, killed)
	}
	select {
	case <-vm.Done():
		return nil
	case <-time.After(quitPatience):
		return err
	}
}

// A lostError says why a suspended machine, which has ended, will not go on.
type lostError struct{ cause error }

func (e *lostError) Error() string {
	return fmt.Sprintf("its containers are lost, its next start boots: %v", e.cause)
}

// capture has the guest get ready, pauses the VM and writes its state to a draft for
// the machine in dir. After an error the guest runs, but is not told so. All channels are
// quiet before goOn.
func (s *supervisor) capture(ctx context.Context, vm hypervisor.VM, dir machine.Dir, how guestapi.Freeze, suspended bool) (*frozen.Draft, error) {
	if err := s.guest.ask(ctx, guestapi.Request{Freeze: &how}); err != nil {
		return nil, err
	}
	if err := s.channels.quiesce(ctx); err != nil {
		return nil, err
	}
	draft, err := frozen.New(dir.Frozen(), s.resources.current.Load().Memory)
	if err == nil {
		draft.Suspended, draft.Accelerator, draft.Processor = suspended, s.resources.accel.Name, s.resources.accel.Processor
		if err = vm.Freeze(ctx, draft.Devices(), draft.Memory()); err != nil {
			draft.Discard()
		}
	}
	if err != nil {
		s.channels.resume()
		return nil, err
	}
	return draft, nil
}

// goOn has a guest go on that got ready for a freeze.
func (s *supervisor) goOn() {
	s.channels.resume()
	clock := guestapi.ClockNow()
	err := errors.Join(
		s.guest.send(guestapi.Request{Clock: &clock}),
		s.guest.send(guestapi.Request{Unfreeze: &guestapi.Unfreeze{}}),
	)
	if err != nil {
		s.log.Warn("telling the guest to go on", "error", err)
	}
}

// suspend freezes the machine with everything that runs in it, or lets it run on.
func (s *supervisor) suspend(t task) {
	err := s.freeze(t.run.vm, guestapi.Freeze{KeepRunning: true}, true)
	m := froze(err)
	if m.kind == unfrozen {
		s.log.Error("not suspended", "cause", err)
		s.goOn()
		m.err = fmt.Errorf("it runs on: %w", err)
	}
	s.inbox.post(m)
}

// copyVM makes a copy of the machine, which is paused while its memory and its disk are
// read, and goes on then; its copy will go on from there, or boot where machines are not
// frozen. It goes on also if nobody waits for the copy any more.
func (s *supervisor) copyVM(ctx context.Context, vm hypervisor.VM, to machine.Dir) error {
	s.log.Info("asked for a copy", "dir", to)
	draft, err := s.copyPaused(ctx, vm, to)
	s.goOn()
	if err != nil || draft == nil {
		return err
	}
	defer draft.Discard()
	return draft.Commit(s.shape(), to.Disk())
}

// copyPaused copies the machine while it is paused; the guest is not yet told to go on
// afterwards. Without an error the draft is its state, nil if it has none.
func (s *supervisor) copyPaused(ctx context.Context, vm hypervisor.VM, to machine.Dir) (*frozen.Draft, error) {
	copyDisk := func() error {
		return errors.Join(disk.Copy(ctx, to.Disk(), s.machine.Dir().Disk()), s.unpause(vm))
	}
	bounded, cancel := context.WithTimeout(context.WithoutCancel(ctx), patience)
	defer cancel()
	if s.resources.noFreeze() == "" {
		draft, err := s.capture(bounded, vm, to, guestapi.Freeze{KeepRunning: true}, true)
		if err != nil {
			return nil, err
		}
		if err := copyDisk(); err != nil {
			draft.Discard()
			return nil, err
		}
		return draft, nil
	}
	if err := s.guest.ask(bounded, guestapi.Request{Freeze: &guestapi.Freeze{KeepRunning: true}}); err != nil {
		return nil, err
	}
	if err := vm.Pause(bounded); err != nil {
		return nil, errors.Join(err, s.unpause(vm))
	}
	return nil, copyDisk()
}

// unpause lets a paused VM go on, or ends it: it may then boot again.
func (s *supervisor) unpause(vm hypervisor.VM) error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := vm.Resume(ctx); err != nil {
		return errors.Join(fmt.Errorf("letting the machine go on: %w", err), vm.Kill())
	}
	return nil
}
