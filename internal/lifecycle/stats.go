package lifecycle

import (
	"context"
	"errors"
	"io/fs"
	"path/filepath"
	"sync"

	"github.com/hyve-vm/hyve/internal/control"
	"github.com/hyve-vm/hyve/internal/disk"
	"github.com/hyve-vm/hyve/internal/machine"
)

// Stats is what a machine uses. Sizes are in bytes.
type Stats struct {
	Name   string         `json:"name"`
	State  control.State  `json:"state"`
	Asleep bool           `json:"asleep,omitempty"`
	Live   *control.Stats `json:"live,omitempty"` // of one that runs

	DiskSize   int64 `json:"diskSize"`   // as the guest sees it
	DiskUsed   int64 `json:"diskUsed"`   // on the host
	FrozenUsed int64 `json:"frozenUsed"` // the frozen state, on the host
	Snapshots  int64 `json:"snapshots"`  // on the host

	Error string `json:"error,omitempty"`
}

// MachineStats returns what machines use, measured side by side: those named, or all.
func MachineStats(ctx context.Context, home machine.Home, names ...string) ([]Stats, error) {
	overviews, err := List(ctx, home)
	if err != nil {
		return nil, err
	}
	if len(names) > 0 {
		if overviews, err = named(overviews, names); err != nil {
			return nil, err
		}
	}
	stats := make([]Stats, len(overviews))
	var all sync.WaitGroup
	for i, o := range overviews {
		all.Go(func() { stats[i] = measure(ctx, home, o) })
	}
	all.Wait()
	return stats, nil
}

func named(overviews []Overview, names []string) ([]Overview, error) {
	picked := make([]Overview, 0, len(names))
	for _, name := range names {
		found := false
		for _, o := range overviews {
			if o.Name == name {
				picked, found = append(picked, o), true
			}
		}
		if !found {
			return nil, &machine.NotFoundError{Name: name}
		}
	}
	return picked, nil
}

func measure(ctx context.Context, home machine.Home, o Overview) Stats {
	s := Stats{Name: o.Name, State: o.Status.State, Asleep: o.Status.Asleep}
	err := o.Err
	dir := home.Dir(o.Name)
	if o.Machine != nil {
		s.DiskSize = o.Machine.Disk
		var used error
		s.DiskUsed, used = disk.Used(dir.Disk())
		err = errors.Join(err, used)
	}
	s.FrozenUsed = usedBelow(dir.Frozen())
	s.Snapshots = usedBelow(dir.SnapshotsDir())
	if s.State == control.Running || s.State == control.Starting || s.State == control.Stopping {
		ctx, cancel := context.WithTimeout(ctx, askTimeout)
		defer cancel()
		live, asked := control.NewClient(dir.ControlSocket()).Stats(ctx)
		if asked == nil {
			s.Live = &live
		}
		err = errors.Join(err, asked)
	}
	if err != nil {
		s.Error = err.Error()
	}
	return s
}

// usedBelow adds up what files take; those that come and go meanwhile do not matter.
func usedBelow(dir string) (sum int64) {
	filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			if used, err := disk.Used(path); err == nil {
				sum += used
			}
		}
		return nil
	})
	return sum
}
