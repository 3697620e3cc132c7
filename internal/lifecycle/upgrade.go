package lifecycle

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"

	"github.com/hyve-vm/hyve/internal/control"
	"github.com/hyve-vm/hyve/internal/disk"
	"github.com/hyve-vm/hyve/internal/frozen"
	"github.com/hyve-vm/hyve/internal/image"
	"github.com/hyve-vm/hyve/internal/image/build"
	"github.com/hyve-vm/hyve/internal/machine"
)

// UpgradeOptions says what a machine is to be upgraded to.
type UpgradeOptions struct {
	// Engine is that of the new image; "" stays with what the machine was made with.
	Engine string
	Mirror string // where to build the image from, see build.Options
	// Phase is told what is about to be done, for people.
	Phase func(string)
}

// Upgraded says what became of an upgrade. The engines are versions of docker.io, "" if
// the image that the machine had is gone.
type Upgraded struct{ From, To string }

// UpgradeError says that a machine did not come up after its upgrade.
type UpgradeError struct {
	Name  string
	To    string // version of docker.io
	Cause error
	Back  error // why it is not as it was, nil if it is
}

func (e *UpgradeError) Error() string {
	if e.Back != nil {
		return fmt.Sprintf("upgrading machine %q to docker %s: %v; and going back: %v", e.Name, e.To, e.Cause, e.Back)
	}
	return fmt.Sprintf("machine %q is as it was: it did not come up with docker %s: %v", e.Name, e.To, e.Cause)
}

func (e *UpgradeError) Unwrap() []error { return []error{e.Cause, e.Back} }

// Hint says how to go on.
func (e *UpgradeError) Hint() string {
	if e.Back != nil {
		return "hyve start " + e.Name + " goes back to what it was"
	}
	return "hyve logs " + e.Name + " shows what the machine said"
}

// Upgrade moves a machine to the newest image that this hyve makes, and starts it:
//
//   - check: a machine that is suspended is refused
//   - image: it is found, or built
//   - stop: a machine that runs is shut down cleanly
//   - keep: its disk is copied, its frozen state dropped, its image changed
//   - start: the new engine is tried; the supervisor forgets the copy when it answers
//   - stop: a machine that did not run is stopped again
//
// A machine whose engine does not come up, or whose upgrade ctx cuts short, gets back
// its image and its disk, and runs if it did; so does one whose upgrade was killed, when
// it is started next. The error is ErrAlready if the machine has that image, and an
// *UpgradeError if it is back.
func Upgrade(ctx context.Context, m *machine.Machine, options UpgradeOptions, follow Follower) (Upgraded, error) {
	status, err := upgradable(ctx, m)
	if err != nil {
		return Upgraded{}, err
	}
	from, engine, err := engineNow(m)
	if err != nil {
		return Upgraded{}, err
	}
	engine = cmp.Or(options.Engine, engine)
	spec := machine.Spec{Engine: engine}
	img, err := ensureImage(ctx, m.Home(), CreateOptions{Spec: spec, Mirror: options.Mirror}, follow)
	if err != nil {
		return Upgraded{}, err
	}
	done := Upgraded{from, img.Manifest.Docker}
	if img.Digest == m.Image {
		if m.Engine != engine { // what it stays with from now on
			err = m.SetImage(m.Image, engine)
		}
		return done, cmp.Or(err, ErrAlready)
	}
	ran := status.State != control.Stopped
	if ran {
		options.Phase("Stopping " + m.Name)
		if err := Stop(ctx, m.Dir(), m.Name, true, follow.Machine); err != nil && !errors.Is(err, ErrAlready) {
			return done, err
		}
	}
	options.Phase("Copying the disk of " + m.Name)
	if err := change(ctx, m, img, engine); err != nil {
		return done, errors.Join(err, resume(ctx, m, ran, options, follow))
	}
	options.Phase("Starting " + m.Name + " with docker " + done.To)
	if err := try(ctx, m, img, follow); err != nil {
		options.Phase("Going back with " + m.Name)
		back := goBack(m)
		if back == nil {
			back = resume(ctx, m, ran, options, follow)
		}
		if failed := (*StartError)(nil); errors.As(err, &failed) {
			err = &failed.Failure
		}
		return done, &UpgradeError{m.Name, done.To, err, back}
	}
	if !ran {
		options.Phase("Stopping " + m.Name)
		err = Stop(ctx, m.Dir(), m.Name, false, follow.Machine)
	}
	return done, err
}

// upgradable returns the status of a machine that can be upgraded, after an earlier
// upgrade that was cut short has been undone.
func upgradable(ctx context.Context, m *machine.Machine) (control.Status, error) {
	if err := settle(m); err != nil {
		return control.Status{}, err
	}
	status, err := Status(ctx, m.Dir())
	switch {
	case err != nil:
		return status, err
	case status.State == control.Suspended:
		return status, &SuspendedError{m.Name}
	case status.State == control.Unresponsive:
		return status, &UnresponsiveError{m.Name}
	}
	return status, nil
}

// engineNow returns which docker.io a machine has, and which engine it was made with.
func engineNow(m *machine.Machine) (docker, engine string, err error) {
	store, err := image.Open(m.Home().ImagesDir())
	if err != nil {
		return "", "", err
	}
	img, err := store.Find(m.Image, runtime.GOARCH)
	if err != nil { // it is gone; the machine is to have another one anyway
		return "", m.Engine, nil
	}
	return img.Manifest.Docker, cmp.Or(m.Engine, string(build.EngineOf(img))), nil
}

// change keeps what a machine at rest is, and gives it another image.
func change(ctx context.Context, m *machine.Machine, img *image.Image, engine string) error {
	lock, err := m.Dir().Acquire()
	if errors.Is(err, machine.ErrLocked) {
		return &BusyError{m.Name}
	}
	if err != nil {
		return err
	}
	defer lock.Release()
	if _, suspended := frozen.Exists(m.Dir().Frozen()); suspended {
		return &SuspendedError{m.Name}
	}
	draft, err := m.DraftUpgrade()
	if err != nil {
		return err
	}
	defer draft.Discard()
	if err := disk.Copy(ctx, draft.Dir().Disk(), m.Dir().Disk()); err != nil {
		return err
	}
	if err := disk.Sync(draft.Dir().Disk()); err != nil {
		return fmt.Errorf("copying a disk: %w", err)
	}
	if err := frozen.Drop(m.Dir().Frozen()); err != nil { // it is the old image's
		return err
	}
	if err := draft.Commit(img.Digest, engine); err != nil {
		return errors.Join(err, revert(m))
	}
	return nil
}

// try starts a machine with its new image. Its supervisor ends the upgrade when the engine
// answers.
func try(ctx context.Context, m *machine.Machine, img *image.Image, follow Follower) error {
	if _, err := start(ctx, m, false, follow.Machine); err != nil {
		return err
	}
	now, err := m.Home().Load(m.Name)
	if err == nil && now.Image != img.Digest {
		err = errors.New("another command has started it meanwhile, and so undone the upgrade")
	}
	return err
}

// resume starts a machine again that ran before an upgrade that came to nothing. The end of
// ctx does not keep it from that: who interrupts an upgrade wants the machine as it was.
func resume(ctx context.Context, m *machine.Machine, ran bool, options UpgradeOptions, follow Follower) error {
	if !ran {
		return nil
	}
	options.Phase("Starting " + m.Name + " as it was")
	_, err := Start(context.WithoutCancel(ctx), m, follow.Machine)
	if errors.Is(err, ErrAlready) {
		return nil
	}
	return err
}

// goBack ends what there is of the machine and makes it what it was.
func goBack(m *machine.Machine) error {
	// Whatever ended the upgrade must not keep this from its work.
	if err := Kill(context.Background(), m.Dir(), m.Name); err != nil && !errors.Is(err, ErrAlready) {
		return err
	}
	return settle(m)
}

// settle undoes an upgrade of a machine that was cut short before the engine had
// answered, if there is one. One that runs is left to its supervisor, which is about to
// know.
func settle(m *machine.Machine) error {
	m.Dir().SweepUpgrades()
	if pending, err := m.Dir().Upgrade(); err != nil || pending == nil {
		return err
	}
	lock, err := m.Dir().Acquire()
	if errors.Is(err, machine.ErrLocked) {
		return nil
	}
	if err != nil {
		return err
	}
	defer lock.Release()
	return revert(m)
}

// revert gives a machine back its disk and its image of before an upgrade. Cut short, it
// is repeated. The caller holds the machine's lock.
func revert(m *machine.Machine) error {
	pending, err := m.Dir().Upgrade()
	if err != nil || pending == nil {
		return err
	}
	now, err := m.Home().Load(m.Name)
	if err != nil {
		return err
	}
	*m = *now
	if err := frozen.Drop(m.Dir().Frozen()); err != nil {
		return err
	}
	// After a revert that was cut short the disk is back already.
	if _, err := os.Stat(pending.Dir.Disk()); err == nil {
		if err := disk.Replace(m.Dir().Disk(), pending.Dir.Disk()); err != nil {
			return err
		}
	} else if !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("going back to the disk of before the upgrade: %w", err)
	}
	if err := m.SetImage(pending.Image, pending.Engine); err != nil {
		return err
	}
	return m.Dir().EndUpgrade()
}
