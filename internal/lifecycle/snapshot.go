package lifecycle

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/hyve-vm/hyve/internal/control"
	"github.com/hyve-vm/hyve/internal/disk"
	"github.com/hyve-vm/hyve/internal/frozen"
	"github.com/hyve-vm/hyve/internal/machine"
)

// TakeSnapshot keeps a copy of a machine as it is now, under a tag.
func TakeSnapshot(ctx context.Context, m *machine.Machine, tag string) error {
	draft, err := m.DraftSnapshot(tag)
	if err != nil {
		return err
	}
	defer draft.Discard()
	if _, err := copyMachine(ctx, m, draft.Dir()); err != nil {
		return fmt.Errorf("taking snapshot %q: %w", tag, err)
	}
	return draft.Commit()
}

// A Snapshot is one of a listing.
type Snapshot struct {
	Tag     string        `json:"tag"`
	Created time.Time     `json:"created"`
	State   control.State `json:"state"` // of the machine when it was taken
	Size    int64         `json:"size"`  // bytes that its disk takes, some of which it may share
}

// Snapshots returns a machine's snapshots, the oldest first.
func Snapshots(m *machine.Machine) ([]Snapshot, error) {
	kept, err := m.Dir().Snapshots()
	if err != nil {
		return nil, err
	}
	snapshots := make([]Snapshot, len(kept))
	for i, k := range kept {
		s := Snapshot{Tag: k.Tag, Created: k.Created, State: control.Stopped}
		if _, running := frozen.Exists(k.Dir.Frozen()); running {
			s.State = control.Running
		}
		if s.Size, err = disk.Used(k.Dir.Disk()); err != nil {
			return nil, err
		}
		snapshots[i] = s
	}
	return snapshots, nil
}

// Rollback gives a machine the disk and the state of a snapshot; what it has done
// since is lost. A machine that runs is killed, and started again.
func Rollback(ctx context.Context, m *machine.Machine, tag string, follow func(control.Status)) error {
	snapshot, err := m.Dir().Snapshot(tag)
	if err != nil {
		return err
	}
	if err := settle(m); err != nil {
		return err
	}
	err = Kill(ctx, m.Dir(), m.Name)
	ran := err == nil
	if err != nil && !errors.Is(err, ErrAlready) {
		return err
	}
	// What was running then goes on with the memory that it had.
	if _, suspended := frozen.Exists(snapshot.Dir.Frozen()); suspended && snapshot.Boot != nil {
		if err := m.Return(*snapshot.Boot); err != nil {
			return err
		}
	}
	if err := restore(ctx, m.Dir(), snapshot.Dir); err != nil {
		return fmt.Errorf("rolling machine %q back: %w", m.Name, err)
	}
	if !ran {
		return nil
	}
	_, err = Start(ctx, m, follow)
	return err
}

// restore replaces disk and state of a machine by those of a snapshot. Whenever it is
// cut short the machine has either disk, whole.
func restore(ctx context.Context, dir, snapshot machine.Dir) error {
	lock, err := dir.Acquire()
	if err != nil {
		return err
	}
	defer lock.Release()
	fresh := dir.Disk() + ".new"
	if err := os.Remove(fresh); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	if err := disk.Copy(ctx, fresh, snapshot.Disk()); err != nil {
		return err
	}
	err = frozen.Drop(dir.Frozen()) // it would not fit any more
	if err == nil {
		err = disk.Replace(dir.Disk(), fresh)
	}
	if err != nil {
		os.Remove(fresh)
		return err
	}
	return linkState(snapshot, dir)
}
