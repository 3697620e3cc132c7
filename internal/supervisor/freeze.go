package supervisor

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/hyve-vm/hyve/internal/control"
	"github.com/hyve-vm/hyve/internal/frozen"
	"github.com/hyve-vm/hyve/internal/guestapi"
	"github.com/hyve-vm/hyve/internal/hypervisor"
	"github.com/hyve-vm/hyve/internal/hypervisor/qemu"
	"github.com/hyve-vm/hyve/internal/machine"
)

// hardware is the VM of the machine, as it is now.
func (s *supervisor) hardware() hypervisor.Config {
	return vmConfig(s.machine, s.parts.image, qemu.KernelCmdline(s.parts.features()), newGeneration())
}

// shape names everything that must be the same for a frozen state to be thawed,
// but the disk.
func (s *supervisor) shape() string {
	words := append([]string{
		s.parts.qemu.Shape(s.hardware(), s.parts.accel.Name),
		s.parts.image.Digest,
	}, s.machine.EngineOptions...)
	sum := sha256.Sum256([]byte(strings.Join(words, "\x00")))
	return hex.EncodeToString(sum[:])
}

// powerOn starts the VM: from the machine's frozen state if that fits, otherwise
// by booting. opening is what the guest is then to be told first.
func (s *supervisor) powerOn(ctx context.Context, lock *machine.Lock) (vm *qemu.VM, opening func() (guestapi.Request, error), err error) {
	options := qemu.Options{
		Accel:      s.parts.accel.Name,
		ExtraFiles: []*os.File{lock.File()},
		Stderr:     os.Stderr,
		RunDir:     s.machine.Dir().RunDir(),
	}
	vm, err = s.thaw(ctx, options)
	if vm != nil {
		return vm, s.parts.identify, nil
	}
	switch unfit := (*frozen.MisfitError)(nil); {
	case errors.As(err, &unfit):
		s.log.Warn("booting", "cause", unfit)
		s.board.set(func(st *control.Status) { st.BootReason = unfit.Error() })
	case !errors.Is(err, frozen.ErrNone):
		return nil, nil, err
	}
	s.board.set(func(st *control.Status) { st.Thawed = false })
	vm, err = qemu.Start(ctx, s.parts.qemu, s.hardware(), options)
	return vm, s.parts.configure, err
}

// thaw starts the VM from the machine's frozen state, which is gone afterwards.
// Without a VM the error is frozen.ErrNone or a *frozen.MisfitError if the machine
// can boot instead.
func (s *supervisor) thaw(ctx context.Context, options qemu.Options) (*qemu.VM, error) {
	dir := s.machine.Dir()
	if !s.parts.accel.Freezes() {
		if err := frozen.Drop(dir.Frozen()); err != nil {
			return nil, err
		}
		return nil, frozen.ErrNone
	}
	if s.found == nil { // at a boot after a boot
		s.found = frozen.Look(dir.Frozen())
	}
	state, err := s.found.Take(s.shape(), dir.Disk())
	s.found = nil
	if err != nil {
		return nil, err
	}
	defer state.Discard()
	config := s.hardware()
	config.Incoming = true
	options.Thaw = state.File
	vm, err := qemu.Start(ctx, s.parts.qemu, config, options)
	if err != nil && ctx.Err() == nil {
		return nil, &frozen.MisfitError{Reason: err.Error()}
	}
	s.board.set(func(st *control.Status) { st.Thawed = err == nil })
	return vm, err
}

// thawPatience bounds how long a thawed guest may take to say who it is; it takes a
// fraction of a second. Starting its containers comes later and takes what it takes.
const thawPatience = time.Minute

// watchThaw kills a VM whose guest does not come to itself; it is booted then.
func (s *supervisor) watchThaw(vm *qemu.VM) (stop func() bool) {
	return time.AfterFunc(thawPatience, func() {
		if !s.guest.met() {
			s.log.Warn("the thawed guest says nothing", "after", thawPatience)
			vm.Kill()
		}
	}).Stop
}

// freeze ends the VM so that the next start can go on from where it is, with an idle
// engine or, suspended, with everything that runs. After an error the guest still
// runs, or nothing does.
func (s *supervisor) freeze(vm *qemu.VM, suspended bool) error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := s.guest.ask(ctx, guestapi.Request{Freeze: &guestapi.Freeze{KeepRunning: suspended}}); err != nil {
		return err
	}
	dir := s.machine.Dir()
	draft, err := frozen.New(dir.Frozen())
	if err != nil {
		return err
	}
	defer draft.Discard()
	draft.Suspended = suspended
	if err := vm.Freeze(ctx, draft.File()); err != nil {
		return err
	}
	if err := vm.Quit(ctx); err != nil {
		return fmt.Errorf("ending a frozen VM: %w", err)
	}
	if err := draft.Commit(s.shape(), dir.Disk()); err != nil {
		s.log.Warn("the next start boots", "cause", err)
	}
	return nil
}

// suspend freezes the machine with everything that runs in it, or lets it run on.
func (s *supervisor) suspend() error {
	s.mu.Lock()
	vm, status := s.vm, control.Status{}
	if status, _ = s.board.get(); vm == nil || s.stopping || status.State != control.Running {
		s.mu.Unlock()
		return errors.New("the machine is not running")
	}
	if !s.parts.accel.Freezes() {
		s.mu.Unlock()
		return fmt.Errorf("machines cannot be suspended with %s yet", s.parts.accel.Name)
	}
	s.stopping = true
	s.freezing.Add(1)
	s.mu.Unlock()
	defer s.freezing.Done()
	s.log.Info("asked to suspend")
	s.board.set(func(st *control.Status) { st.State, st.Activity = control.Stopping, "Suspending" })
	err := s.freeze(vm, true)
	if err == nil {
		return nil
	}
	s.log.Error("not suspended", "cause", err)
	s.guest.send(guestapi.Request{Unfreeze: &guestapi.Unfreeze{}})
	s.mu.Lock()
	s.stopping = false
	s.mu.Unlock()
	s.board.set(func(st *control.Status) { st.State, st.Activity = control.Running, "" })
	return fmt.Errorf("suspending the machine, which runs on: %w", err)
}
