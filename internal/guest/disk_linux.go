package guest

import (
	"context"
	"errors"
	"time"

	"golang.org/x/sys/unix"

	"github.com/hyve-vm/hyve/internal/guest/datadisk"
	"github.com/hyve-vm/hyve/internal/guestapi"
)

// setUpDisk waits for the data disk, mounts it and starts containerd, which needs no more.
func (g *guest) setUpDisk(ctx context.Context) error {
	name, err := g.devices.disk(ctx, guestapi.DataDisk)
	if err != nil {
		return err
	}
	if err := datadisk.Mount(name, g.reaper, g.out.Logf); err != nil {
		return err
	}
	if driver := datadisk.RemovedDriver("/var/lib/docker"); driver != "" {
		g.out.Put(guestapi.Event{Unreadable: &guestapi.Unreadable{Driver: guestapi.NewText(driver)}})
	}
	g.out.Phase(guestapi.PhaseDisk)
	return g.engine.StartContainerd(g.ctx)
}

// growTimeout bounds the wait for a disk that the host makes larger; it takes milliseconds.
const growTimeout = 30 * time.Second

// growData waits until the data disk has that many bytes and gives them to its file system,
// which is in use.
func (g *guest) growData(size int64) error {
	g.freezing.Lock()
	defer g.freezing.Unlock()
	if g.frozen {
		return errors.New("growing the data disk's file system: it is frozen")
	}
	ctx, cancel := context.WithTimeout(g.ctx, growTimeout)
	defer cancel()
	name, err := g.devices.disk(ctx, guestapi.DataDisk)
	if err != nil {
		return err
	}
	var now int64
	larger := func() bool {
		now, err = datadisk.Size(name)
		return err != nil || now >= size
	}
	if waited := g.devices.await(ctx, larger); waited != nil || err != nil {
		return errors.Join(err, waited)
	}
	return datadisk.Grow(name, now, g.out.Logf)
}

// diskInterval is how often the data disk's room is looked at. The kernel tells
// nobody when a file system fills up; a statfs twice a minute costs nothing.
const diskInterval = 30 * time.Second

// diskRoom is the room that the data disk needs, in bytes: a tenth of the disk,
// and no more than half a gigabyte.
func diskRoom(size int64) int64 { return min(size/10, 512<<20) }

// watchDisk tells the host when the data disk runs full, and when that is over.
func (g *guest) watchDisk() {
	tick := time.NewTicker(diskInterval)
	defer tick.Stop()
	told := false
	for {
		var st unix.Statfs_t
		if unix.Statfs(datadisk.Dir, &st) == nil {
			free, room := int64(st.Bavail)*st.Bsize, diskRoom(int64(st.Blocks)*st.Bsize)
			switch {
			case free < room && !told:
				told = true
				g.out.Put(guestapi.Event{DiskFull: &guestapi.DiskFull{FreeBytes: free}})
			case free > room+room/4 && told:
				told = false
				g.out.Put(guestapi.Event{DiskFull: &guestapi.DiskFull{FreeBytes: free, Over: true}})
			}
		}
		select {
		case <-tick.C:
		case <-g.ctx.Done():
			return
		}
	}
}
