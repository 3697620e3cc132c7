package supervisor

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

	"github.com/hyve-vm/hyve/internal/control"
	"github.com/hyve-vm/hyve/internal/frozen"
	"github.com/hyve-vm/hyve/internal/guestapi"
	"github.com/hyve-vm/hyve/internal/hypervisor"
	"github.com/hyve-vm/hyve/internal/machine"
)

// newSettings is why a machine boots that waited with other settings.
const newSettings = "it has other settings than when it was frozen"

// settingsPatience is how long the guest may take to hear of settings: its engine reads
// them again, and is started again where that is not enough.
const settingsPatience = 3 * time.Minute

// takeNext gives a machine that is about to start what waited for that, but for one that
// was suspended: what runs in it goes on with what it had. It tells whether a frozen state
// has become useless by it.
func takeNext(m *machine.Machine) (dropped bool, err error) {
	if m.Next == nil {
		return false, nil
	}
	exists, suspended := frozen.Exists(m.Dir().Frozen())
	if suspended {
		return false, nil
	}
	// In this order: a kill in between leaves a machine that boots.
	if err := frozen.Drop(m.Dir().Frozen()); err != nil {
		return false, err
	}
	return exists, m.TakeNext()
}

// takeNextReboot is takeNext for a machine whose guest starts again. Another hypervisor waits for
// another supervisor.
func (s *supervisor) takeNextReboot() error {
	if err := s.reread(); err != nil {
		return err
	}
	m := *s.resources.current.Load()
	if m.Next == nil || m.Next.Hypervisor != m.Hypervisor {
		return nil
	}
	if _, err := takeNext(&m); err != nil {
		return err
	}
	s.resources.current.Store(&m)
	return nil
}

// reread takes the machine as its file is now. What it has from one boot to the next is
// changed there by its supervisor alone.
func (s *supervisor) reread() error {
	m, err := s.machine.Home().Load(s.machine.Name)
	if err != nil {
		return err
	}
	s.resources.current.Store(m)
	s.idle.setAfter(m.IdleAfter())
	s.setHostAccess(hostAccess(m))
	s.resources.around.set(m.HostParts())
	return nil
}

// Reload implements control.Supervisor.
func (s *supervisor) Reload(ctx context.Context) error {
	if status, _ := s.board.get(); status.Accelerator == "" {
		return nil // it reads the file when it is so far
	}
	if err := s.reread(); err != nil {
		return err
	}
	s.resources.around.refresh()
	var sleepless error
	if s.resources.current.Load().IdleAfter() > 0 {
		if reason := s.resources.noFreeze(); reason != "" {
			sleepless = fmt.Errorf("the setting is kept, but the machine does not fall asleep: %s", reason)
		}
	}
	err := s.inbox.ask(ctx, message{kind: wordSettle})
	if errors.Is(err, errNotRunning) { // any more
		err = nil
	}
	return errors.Join(err, sleepless)
}

// catchUp gives a machine that is up what was set since it began to start. What is begun
// is ended, also if nobody waits for it any more.
func (s *supervisor) catchUp(ctx context.Context, vm hypervisor.VM) error {
	return errors.Join(s.tellSettings(ctx), s.growDisk(ctx, vm))
}

// tellSettings has the guest know of settings that are not those that it was told.
func (s *supervisor) tellSettings(ctx context.Context) error {
	now, told := s.resources.current.Load(), s.resources.told.Load()
	if told == nil || slices.Equal(now.Labels, told.Labels) && slices.Equal(now.RegistryMirrors, told.RegistryMirrors) &&
		slices.Equal(now.InsecureRegistries, told.InsecureRegistries) && slices.Equal(now.CertNames, told.CertNames) && slices.Equal(now.HostParts(), told.HostParts()) {
		return nil
	}
	identity, err := s.resources.guestIdentity()
	if err != nil {
		return err
	}
	s.warmConn.forget() // the certificate may be another
	if err := s.guest.ask(ctx, guestapi.Request{Identity: &identity}); err != nil {
		return fmt.Errorf("giving the engine its settings: %w", err)
	}
	return nil
}

// growDisk makes the running machine's disk as large as it is to be, and the file system on
// it. If that is cut short at any moment the next boot does the rest.
func (s *supervisor) growDisk(ctx context.Context, vm hypervisor.VM) error {
	size := s.resources.current.Load().Disk
	info, err := os.Stat(s.machine.Dir().Disk())
	if err != nil {
		return fmt.Errorf("growing the disk: %w", err)
	}
	if info.Size() >= size && !s.ungrown.Load() {
		return nil
	}
	if info.Size() < size {
		if err := vm.ResizeDisk(ctx, guestapi.DataDisk, size); err != nil {
			return fmt.Errorf("growing the disk: %w", err)
		}
		s.log.Info("the disk has grown", "from", machine.FormatSize(info.Size()), "to", machine.FormatSize(size))
	}
	err = s.guest.ask(ctx, guestapi.Request{Grow: &guestapi.Grow{Size: size}})
	s.ungrown.Store(err != nil)
	if err != nil {
		return fmt.Errorf("the disk has grown, its file system does when the machine boots next (hyve restart %s): %w", s.machine.Name, err)
	}
	return nil
}

var _ control.Supervisor = (*supervisor)(nil)
