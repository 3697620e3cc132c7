package guest

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/hyve-vm/hyve/internal/guest/datadisk"
	"github.com/hyve-vm/hyve/internal/guestapi"
)

// restartsFile lists, one a line, the containers that the next start, be it a thaw or
// a boot, is to start: those that a freeze has stopped, which dockerd takes for stopped
// by their user, and those that dockerd would start when it starts.
const restartsFile = datadisk.Dir + "/var/lib/hyve/restarts"

// stopGrace is what containers get between SIGTERM and SIGKILL where nobody says
// otherwise: dockerd's own at its shutdown.
const stopGrace = 15 * time.Second

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
		if err := g.engine.refresh(); err != nil {
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
		ids, err := g.engine.containers(false)
		if err != nil {
			return err
		}
		running = len(ids) > 0
	}
	if running {
		return errors.New("something runs")
	}
	return nil
}

// endEverything stops containers, sessions of users, and what is left of builds.
func (g *guest) endEverything() error {
	if err := g.engine.stopContainers(); err != nil {
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
	g.engine.rehearse("/version")
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

// wake starts what a freeze has stopped, once the engine is there.
func (g *guest) wake() error {
	if state, _ := g.engine.dockerd.watch(); !state.ready {
		return nil
	}
	return g.engine.restartContainers()
}

// A container is what the engine says of one.
type container struct {
	ID     string `json:"Id"`
	Config struct{ StopTimeout *int }
	State  struct {
		Running  bool
		ExitCode int
	}
	RestartCount int
	HostConfig   struct {
		RestartPolicy struct {
			Name              string
			MaximumRetryCount int // 0: no bound
		}
	}

	due bool // it ran, or was to be started and could not
}

// restarts says whether the container would be started by a boot that follows on
// a shutdown.
func (c *container) restarts() bool {
	switch policy := c.HostConfig.RestartPolicy; policy.Name {
	case "always":
		return true // also if its user had stopped it
	case "unless-stopped":
		return c.due
	case "on-failure":
		bound := policy.MaximumRetryCount
		return c.State.Running || c.State.ExitCode != 0 && (bound == 0 || c.RestartCount < bound)
	}
	return false
}

// containers returns the IDs of those that run, or of all.
func (e *engine) containers(all bool) (ids []string, err error) {
	var listed []struct {
		ID string `json:"Id"`
	}
	if err := e.read(fmt.Sprintf("/containers/json?all=%t", all), &listed); err != nil {
		return nil, err
	}
	for _, c := range listed {
		ids = append(ids, c.ID)
	}
	return ids, nil
}

// stopContainers stops what runs, as dockerd's shutdown would, and notes what is to
// run again.
func (e *engine) stopContainers() error {
	pong, err := askEngine(dockerSocket, "GET", "/_ping", time.Minute)
	if err != nil {
		return err
	}
	pong.Close()
	if state := pong.header.Get("Swarm"); state != "" && state != "inactive" {
		return errors.New("the machine is part of a swarm, which does not let go of its containers")
	}
	ids, err := e.containers(true)
	if err != nil {
		return err
	}
	failed, err := readRestarts()
	if err != nil {
		return err
	}
	containers := make([]container, len(ids))
	for i := range containers {
		c := &containers[i]
		if err := e.read("/containers/"+ids[i]+"/json", c); err != nil {
			return err
		}
		c.due = c.State.Running || slices.Contains(failed, c.ID)
	}
	if err := keepRestarts(containers); err != nil {
		return err
	}
	errs := make([]error, len(containers))
	var all sync.WaitGroup
	for i := range containers {
		if containers[i].State.Running {
			all.Go(func() { errs[i] = e.stopContainer(&containers[i]) })
		}
	}
	all.Wait()
	return errors.Join(append(errs, keepRestarts(containers))...)
}

func (e *engine) stopContainer(c *container) error {
	grace := stopGrace
	if c.Config.StopTimeout != nil {
		grace = time.Duration(*c.Config.StopTimeout) * time.Second
	}
	body, err := askEngine(dockerSocket, "POST", fmt.Sprintf("/containers/%s/stop?t=%d", c.ID, int(grace.Seconds())), grace+time.Minute)
	if err != nil {
		return err
	}
	body.Close()
	if err := e.read("/containers/"+c.ID+"/json", c); err != nil {
		c.HostConfig.RestartPolicy.Name = "" // one that is removed when it ends
	}
	return nil
}

func (e *engine) read(path string, into any) error {
	body, err := askEngine(dockerSocket, "GET", path, time.Minute)
	if err != nil {
		return err
	}
	defer body.Close()
	if err := json.NewDecoder(io.LimitReader(body, 16<<20)).Decode(into); err != nil {
		return fmt.Errorf("asking the engine for %s: %w", path, err)
	}
	return nil
}

// keepRestarts notes which of the containers are to run again.
func keepRestarts(containers []container) error {
	var ids []string
	for _, c := range containers {
		if c.restarts() {
			ids = append(ids, c.ID)
		}
	}
	return writeRestarts(ids)
}

func readRestarts() ([]string, error) {
	list, err := os.ReadFile(restartsFile)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("reading which containers are to run again: %w", err)
	}
	return strings.Fields(string(list)), nil
}

func writeRestarts(ids []string) error {
	if len(ids) == 0 {
		if err := os.Remove(restartsFile); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("noting which containers are to run again: %w", err)
		}
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(restartsFile), 0o700); err != nil {
		return fmt.Errorf("noting which containers are to run again: %w", err)
	}
	return writeChanged(restartsFile, []byte(strings.Join(ids, "\n")+"\n"), 0o600)
}

// restartContainers starts those that were noted. One that does not start keeps
// none of the others from it, as at dockerd's own start, and stays noted.
func (e *engine) restartContainers() error {
	ids, err := readRestarts()
	if err != nil {
		return err
	}
	var all sync.WaitGroup
	for i, id := range ids {
		all.Go(func() {
			body, err := askEngine(dockerSocket, "POST", "/containers/"+id+"/start", dockerdStart)
			if err != nil {
				e.out.Logf("%v", err)
				return
			}
			body.Close()
			ids[i] = ""
		})
	}
	all.Wait()
	return writeRestarts(slices.DeleteFunc(ids, func(id string) bool { return id == "" }))
}
