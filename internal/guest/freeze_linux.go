package guest

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/hyve-vm/hyve/internal/guest/datadisk"
	"github.com/hyve-vm/hyve/internal/guestapi"
)

// freeze brings the machine to where its VM can be frozen.
func (g *guest) freeze(how guestapi.Freeze) error {
	g.freezing.Lock()
	defer g.freezing.Unlock()
	if how.IfQuiet {
		if err := g.checkQuiet(); err != nil {
			return err
		}
	}
	if !how.KeepRunning {
		if err := g.endEverything(); err != nil {
			return err
		}
		if err := g.engine.Refresh(); err != nil {
			return err
		}
	}
	keep := int64(0)
	if how.KeepRunning { // somebody waits for it, and for what runs to go on
		keep = warmCache
	}
	if err := g.forgetCaches(keep); err != nil {
		return err
	}
	g.note(errors.Join(keepShared(), g.memory.pause()))
	// The file system is clean on the disk then, with nothing in its journal.
	if err := datadisk.Freeze(); err != nil {
		return err
	}
	g.front.Shut()
	g.frozen = true
	return nil
}

// checkQuiet is an error if anything runs. The engine knows also of containers that
// somebody has put into another control group.
func (g *guest) checkQuiet() error {
	running, err := anythingRuns()
	if err != nil {
		return err
	}
	if !running {
		running, err = g.engine.ContainersRun()
		if err != nil {
			return err
		}
	}
	if running {
		return errors.New("something runs")
	}
	return nil
}

// endEverything stops containers, sessions of users, and what is left of builds.
func (g *guest) endEverything() error {
	if err := g.engine.StopContainers(); err != nil {
		return err
	}
	for _, group := range userGroups {
		err := os.WriteFile(filepath.Join(group, "cgroup.kill"), []byte("1"), 0)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("ending the processes of %s: %w", group, err)
		}
	}
	return nil
}

// warmCache is how much may be kept, in bytes, of what a machine that stays as it is
// could read again.
const warmCache = 128 << 20

// forgetCaches drops what could be read again, if that is more than keep, and wipes what
// was free and is now: neither is to be written to the host's disk. What is mapped,
// programs that run, stays. What the engine needs to answer a first client is read again:
// he would have to wait for each piece of it.
func (g *guest) forgetCaches(keep int64) error {
	m, err := readMeminfo()
	if err != nil {
		return err
	}
	if m["Cached"]+m["Buffers"]-m["Mapped"]-m["Shmem"] <= keep {
		return nil
	}
	unix.Sync() // what is dirty would stay
	if err := os.WriteFile("/proc/sys/vm/drop_caches", []byte("3"), 0); err != nil {
		return fmt.Errorf("dropping caches: %w", err)
	}
	g.engine.Rehearse("/version")
	b, err := os.ReadFile("/proc/buddyinfo")
	if err != nil {
		return fmt.Errorf("looking for free memory: %w", err)
	}
	return wipe(min(fragments(string(b))*os.Getpagesize(), maxWipe))
}

// keepShared keeps the kernel from joining small pages into huge ones behind the back of
// programs: each would be a copy, of memory that a thawed machine has in common with
// others.
func keepShared() error {
	err := os.WriteFile("/sys/kernel/mm/transparent_hugepage/enabled", []byte("madvise"), 0)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("keeping memory shared: %w", err)
	}
	return nil
}

// maxWipe bounds what is wiped, in bytes: after much has happened it is everywhere, and
// takes seconds under emulation.
const maxWipe = 64 << 20

// wipe has the kernel hand out that much memory, which it clears for that. It takes the
// smallest free pieces first.
func wipe(size int) error {
	if size == 0 {
		return nil
	}
	free, err := unix.Mmap(-1, 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		return fmt.Errorf("wiping free memory: %w", err)
	}
	defer unix.Munmap(free)
	unix.Madvise(free, unix.MADV_NOHUGEPAGE)
	unix.Madvise(free, unix.MADV_POPULATE_WRITE) // without which it is not wiped, and that is all
	return nil
}

// unfreeze lets a machine go on that was made ready for a freeze, or still is, be it
// that it was thawed or that nothing came of it.
func (g *guest) unfreeze() {
	g.freezing.Lock()
	defer g.freezing.Unlock()
	if g.frozen {
		g.frozen = false
		g.note(datadisk.Thaw())
	}
}
