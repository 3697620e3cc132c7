package engine

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

	"github.com/hyve-vm/hyve/internal/guest/datadisk"
	"github.com/hyve-vm/hyve/internal/guest/wholefile"
)

// restartsFile lists, one a line, the containers that the next start, be it a thaw or
// a boot, is to start: those that a freeze has stopped, which dockerd takes for stopped
// by their user, and those that dockerd would start when it starts.
const restartsFile = datadisk.Dir + "/var/lib/hyve/restarts"

// stopGrace is what containers get between SIGTERM and SIGKILL where nobody says
// otherwise: dockerd's own at its shutdown.
const stopGrace = 15 * time.Second

// Wake starts what a freeze has stopped, once the engine is there.
func (e *Engine) Wake() error {
	if state, _ := e.dockerd.watch(); !state.ready {
		return nil
	}
	return e.restartContainers()
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

// ContainersRun tells whether any container runs.
func (e *Engine) ContainersRun() (bool, error) {
	ids, err := e.containers(false)
	return len(ids) > 0, err
}

// containers returns the IDs of those that run, or of all.
func (e *Engine) containers(all bool) (ids []string, err error) {
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

// StopContainers stops what runs, as dockerd's shutdown would, and notes what is to
// run again.
func (e *Engine) StopContainers() error {
	pong, err := ask(Socket, "GET", "/_ping", time.Minute)
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

func (e *Engine) stopContainer(c *container) error {
	grace := stopGrace
	if c.Config.StopTimeout != nil {
		grace = time.Duration(*c.Config.StopTimeout) * time.Second
	}
	body, err := ask(Socket, "POST", fmt.Sprintf("/containers/%s/stop?t=%d", c.ID, int(grace.Seconds())), grace+time.Minute)
	if err != nil {
		return err
	}
	body.Close()
	if err := e.read("/containers/"+c.ID+"/json", c); err != nil {
		c.HostConfig.RestartPolicy.Name = "" // one that is removed when it ends
	}
	return nil
}

func (e *Engine) read(path string, into any) error {
	body, err := ask(Socket, "GET", path, time.Minute)
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
	return wholefile.Write(restartsFile, []byte(strings.Join(ids, "\n")+"\n"), 0o600)
}

// restartContainers starts those that were noted. One that does not start keeps
// none of the others from it, as at dockerd's own start, and stays noted.
func (e *Engine) restartContainers() error {
	ids, err := readRestarts()
	if err != nil {
		return err
	}
	var all sync.WaitGroup
	for i, id := range ids {
		all.Go(func() {
			body, err := ask(Socket, "POST", "/containers/"+id+"/start", dockerdStart)
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
