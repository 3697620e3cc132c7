package supervisor

import (
	"context"
	"fmt"
	"runtime"

	"golang.org/x/sync/errgroup"

	"github.com/hyve-vm/hyve/internal/hypervisor"
	"github.com/hyve-vm/hyve/internal/hypervisor/pick"
	"github.com/hyve-vm/hyve/internal/image"
	"github.com/hyve-vm/hyve/internal/machine"
	"github.com/hyve-vm/hyve/internal/trial"
)

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
