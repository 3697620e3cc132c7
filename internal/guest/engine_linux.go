package guest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"os"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/hyve-vm/hyve/internal/guestapi"
)

// servicePath is PATH of everything that runs in the guest.
const servicePath = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// How long a service gets to end. dockerd bounds itself by what its containers
// ask for; this is for one that hangs.
const (
	containerdStop = 10 * time.Second
	dockerdStop    = 10 * time.Minute
	dockerdRestart = 30 * time.Second
	dockerdReload  = 10 * time.Second
	// Lines of dockerd's log that say that it has done what it was told.
	reloadedMessage  = "Reloaded configuration"
	listeningMessage = "API listen on"
)

// An engine is containerd and dockerd with what they are told.
type engine struct {
	out        *outbox
	phase      func(string)
	fail       func(string, error)
	containerd *service
	dockerd    *service

	mu      sync.Mutex
	options guestapi.Engine
	started bool // dockerd was asked to run, with what launched says
	// launched is what dockerd reads only at its start.
	launched launchState
	version  string // of the dockerd that is ready; empty while none is
}

// A launchState is what dockerd has to be started again for when it changes.
type launchState struct {
	proxies map[string]string
	cas     string
}

func (a launchState) equal(b launchState) bool {
	return a.cas == b.cas && maps.Equal(a.proxies, b.proxies)
}

func newEngine(r *reaper, out *outbox, phase func(string), fail func(string, error)) *engine {
	e := &engine{out: out, phase: phase, fail: fail}
	env := []string{servicePath, "HOME=/root", "LANG=C.UTF-8"}
	e.containerd = &service{
		name: guestapi.ServiceContainerd, phase: guestapi.PhaseContainerd, runDir: runDir,
		cgroup: cgroupHyve + "/containerd", score: -999, policy: defaultPolicy, reaper: r, out: out,
		command: func() ([]string, []string, error) {
			return []string{"containerd", "--config", containerdConfig}, env, nil
		},
		onReady: func() { phase(guestapi.PhaseContainerd) },
	}
	e.dockerd = &service{
		name: guestapi.ServiceDockerd, phase: guestapi.PhaseEngine, runDir: runDir,
		cgroup: cgroupHyve + "/dockerd", score: -500, policy: defaultPolicy, reaper: r, out: out,
		command: func() ([]string, []string, error) { return e.dockerdCommand(env) },
		onReady: e.dockerdReady,
	}
	return e
}

// startContainerd starts containerd; its directories are there.
func (e *engine) startContainerd(ctx context.Context) error {
	if err := writeChanged(containerdConfig, composeContainerdConfig(), 0o644); err != nil {
		return err
	}
	e.containerd.up()
	go e.containerd.supervise(ctx)
	return nil
}

// startDockerd starts dockerd for the machine of that configuration.
func (e *engine) startDockerd(ctx context.Context, options guestapi.Engine, id guestapi.Identity) error {
	if options.ID != "" {
		if err := writeChanged(engineIDFile, []byte(options.ID), 0o600); err != nil {
			return err
		}
	}
	e.mu.Lock()
	e.options = options
	e.started = true
	err := e.prepare(id)
	e.mu.Unlock()
	if err != nil {
		return err
	}
	e.dockerd.up()
	go e.dockerd.supervise(ctx)
	return nil
}

// prepare writes what dockerd reads at its start. The caller holds mu.
func (e *engine) prepare(id guestapi.Identity) error {
	cas, err := trustCAs(id.ExtraCAs)
	if err != nil {
		return err
	}
	config, err := e.compose(id)
	if err != nil {
		return err
	}
	e.launched = launchState{proxies: maps.Clone(id.Proxies), cas: cas}
	return writeChanged(daemonJSON, config.file, 0o644)
}

func (e *engine) compose(id guestapi.Identity) (engineConfig, error) {
	user, err := os.ReadFile(userDaemonJSON)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return engineConfig{}, fmt.Errorf("reading the user's engine configuration: %w", err)
	}
	return composeEngineConfig(id, e.options, user)
}

func (e *engine) dockerdCommand(env []string) ([]string, []string, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	// The flags depend on the options alone, which do not change.
	config, err := e.compose(guestapi.Identity{})
	if err != nil {
		return nil, nil, err
	}
	for _, note := range config.notes {
		e.out.logf("%s", note)
	}
	return append([]string{"dockerd"}, config.flags...), env, nil
}

// identify tells a running dockerd of the machine's identity: by a reload where
// that is enough, else by another start that leaves the containers running.
func (e *engine) identify(id guestapi.Identity) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if !e.started {
		_, err := trustCAs(id.ExtraCAs)
		return err
	}
	before := e.launched
	old, _ := os.ReadFile(daemonJSON)
	if err := e.prepare(id); err != nil {
		return err
	}
	if !e.launched.equal(before) {
		return e.relaunch()
	}
	if now, _ := os.ReadFile(daemonJSON); string(now) != string(old) {
		return e.reload()
	}
	return nil
}

// reload has dockerd read daemon.json again and waits until it has.
func (e *engine) reload() error {
	if e.version == "" {
		return nil // it is starting and reads the file, or comes to it
	}
	done := e.dockerd.expect(reloadedMessage)
	e.dockerd.signal(syscall.SIGHUP)
	return waitFor(done, dockerdReload, "reloading dockerd")
}

// relaunch starts dockerd again under its running containers. dockerd leaves
// them alone when it has been told to "live-restore", which must not hold at a
// shutdown, so it is switched on for the restart alone.
func (e *engine) relaunch() error {
	final, err := os.ReadFile(daemonJSON)
	if err != nil {
		return fmt.Errorf("restarting dockerd: %w", err)
	}
	var keys map[string]any
	if err := json.Unmarshal(final, &keys); err != nil {
		return fmt.Errorf("restarting dockerd: %w", err)
	}
	keys["live-restore"] = true
	lasting, err := json.Marshal(keys)
	if err != nil {
		return fmt.Errorf("restarting dockerd: %w", err)
	}
	if err := writeChanged(daemonJSON, lasting, 0o644); err != nil {
		return err
	}
	if err := e.reload(); err != nil {
		return err
	}
	e.version = ""
	ready := e.dockerd.expect(listeningMessage)
	if err := e.dockerd.restart(dockerdRestart); err != nil {
		return err
	}
	if err := waitFor(ready, dockerdRestart, "restarting dockerd"); err != nil {
		return err
	}
	if err := writeChanged(daemonJSON, final, 0o644); err != nil {
		return err
	}
	e.dockerd.signal(syscall.SIGHUP)
	return nil
}

// dockerdReady tells the host that the engine answers.
func (e *engine) dockerdReady() {
	e.phase(guestapi.PhaseEngine)
	version, err := engineVersion(dockerSocket)
	if err != nil {
		e.fail(guestapi.PhaseEngine, err)
		return
	}
	e.out.put(guestapi.Event{EngineReady: &guestapi.EngineReady{Version: version}})
	e.mu.Lock()
	e.version = version
	e.mu.Unlock()
}

// repeat tells a new host that the engine is ready, if it is.
func (e *engine) repeat() {
	e.mu.Lock()
	version := e.version
	e.mu.Unlock()
	if version != "" {
		e.out.put(guestapi.Event{EngineReady: &guestapi.EngineReady{Version: version}})
	}
}

// stop ends dockerd, which stops the containers, then containerd.
func (e *engine) stop() error {
	e.mu.Lock()
	bound := max(dockerdStop, e.options.StopTimeout+time.Minute)
	e.mu.Unlock()
	return errors.Join(e.dockerd.stop(bound), e.containerd.stop(containerdStop))
}

// engineVersion asks the engine for its version. HTTP/1.0 keeps the answer plain:
// the body ends with the connection, so no HTTP client is needed in PID 1.
func engineVersion(socket string) (string, error) {
	conn, err := net.Dial("unix", socket)
	if err != nil {
		return "", fmt.Errorf("asking the engine for its version: %w", err)
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(30 * time.Second))
	if _, err := io.WriteString(conn, "GET /version HTTP/1.0\r\nHost: docker\r\n\r\n"); err != nil {
		return "", fmt.Errorf("asking the engine for its version: %w", err)
	}
	answer, err := io.ReadAll(io.LimitReader(conn, 1<<20))
	if err != nil {
		return "", fmt.Errorf("asking the engine for its version: %w", err)
	}
	head, body, _ := strings.Cut(string(answer), "\r\n\r\n")
	status, _, _ := strings.Cut(head, "\r\n")
	if fields := strings.Fields(status); len(fields) < 2 || fields[1] != "200" {
		return "", fmt.Errorf("asking the engine for its version: it answered %q", status)
	}
	var v struct{ Version string }
	if err := json.Unmarshal([]byte(body), &v); err != nil {
		return "", fmt.Errorf("asking the engine for its version: %w", err)
	}
	return v.Version, nil
}

// command does what /etc/init.d/docker asks.
func (e *engine) command(verb string) error {
	switch verb {
	case "stop":
		e.setVersion("")
		return e.dockerd.stop(dockerdStop)
	case "start":
		ready := e.dockerd.expect(listeningMessage)
		if _, running, _ := e.dockerd.watch(); running != nil {
			return nil
		}
		e.dockerd.up()
		return waitFor(ready, dockerdRestart, "starting dockerd")
	case "restart":
		ready := e.dockerd.expect(listeningMessage)
		e.setVersion("")
		if err := e.dockerd.restart(dockerdStop); err != nil {
			return err
		}
		e.dockerd.up()
		return waitFor(ready, dockerdRestart, "restarting dockerd")
	case "status":
		if _, running, _ := e.dockerd.watch(); running == nil {
			return errors.New("dockerd does not run")
		}
		return nil
	}
	return fmt.Errorf("unknown command %q of the engine; want start, stop, restart or status", verb)
}

func (e *engine) setVersion(v string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.version = v
}

// waitFor waits for done, at most for bound.
func waitFor(done <-chan struct{}, bound time.Duration, what string) error {
	timeout := time.NewTimer(bound)
	defer timeout.Stop()
	select {
	case <-done:
		return nil
	case <-timeout.C:
		return fmt.Errorf("%s: not done after %v", what, bound)
	}
}
