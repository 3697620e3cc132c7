// Package engine runs a machine's docker engine: containerd and dockerd as services, what they
// are told of the machine and of its user's wishes, and what a freeze wants of them.
package engine

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hyve-vm/hyve/internal/guest/front"
	"github.com/hyve-vm/hyve/internal/guest/outbox"
	"github.com/hyve-vm/hyve/internal/guest/process"
	"github.com/hyve-vm/hyve/internal/guest/publish"
	"github.com/hyve-vm/hyve/internal/guest/wholefile"
	"github.com/hyve-vm/hyve/internal/guestapi"
)

// How long a service gets to end. dockerd bounds itself by what its containers
// ask for; this is for one that hangs.
const (
	containerdStop = 10 * time.Second
	dockerdStop    = 10 * time.Minute
	dockerdRestart = 30 * time.Second // with its containers left alone
	dockerdStart   = 2 * time.Minute  // seconds on hardware
	dockerdReload  = 30 * time.Second
)

// A Config is what an engine has of its machine.
type Config struct {
	Reaper *process.Reaper
	Out    *outbox.Outbox
	Front  *front.Front   // is told what docker-machine has its clients know the engine by
	Ports  *publish.Ports // what dockerd binds and its proxies publish
	Cgroup string         // directory; containerd's and dockerd's are below it
	RunDir string         // directory, in memory, for what they are told
}

// An Engine is containerd and dockerd with what they are told.
type Engine struct {
	reaper     *process.Reaper
	front      *front.Front
	out        *outbox.Outbox
	runDir     string
	containerd *service
	dockerd    *service

	mu      sync.Mutex
	options guestapi.Engine
	started bool // dockerd was asked to run, with what launched says
	// launched is what dockerd reads only at its start.
	launched launchState
	id       guestapi.Identity

	launch atomic.Pointer[launch] // dockerd's next; mu is held across one
}

// A launchState is what dockerd has to be started again for when it changes.
type launchState struct {
	proxies map[string]string
	cas     string
}

// A launch is how dockerd is started.
type launch struct{ flags, env []string }

func (a launchState) equal(b launchState) bool {
	return a.cas == b.cas && maps.Equal(a.proxies, b.proxies)
}

// New returns the engine before either of its programs is started.
func New(c Config) *Engine {
	e := &Engine{reaper: c.Reaper, front: c.Front, out: c.Out, runDir: c.RunDir}
	e.launch.Store(&launch{})
	env := []string{process.Path, "HOME=/root", "LANG=C.UTF-8"}
	if known, ok := os.LookupEnv("GODEBUG"); ok {
		env = append(env, "GODEBUG="+known) // what the host knows of this processor
	}
	e.containerd = &service{
		name: guestapi.ServiceContainerd, phase: guestapi.PhaseContainerd, runDir: c.RunDir,
		cgroup: c.Cgroup + "/containerd", score: -999, policy: defaultPolicy, reaper: c.Reaper, out: c.Out,
		command: func() ([]string, []string, error) {
			return []string{"containerd", "--config", containerdConfig}, env, nil
		},
		onReady: func() { e.out.Phase(guestapi.PhaseContainerd) },
	}
	// Of directories dockerd would read every file.
	dockerdEnv := slices.Concat(env, []string{"SSL_CERT_FILE=" + e.cas(), "SSL_CERT_DIR=" + c.RunDir + "/none"})
	e.dockerd = &service{
		name: guestapi.ServiceDockerd, phase: guestapi.PhaseEngine, runDir: c.RunDir,
		cgroup: c.Cgroup + "/dockerd", score: -500, policy: defaultPolicy, reaper: c.Reaper, out: c.Out,
		gate: publish.NewBindGate(c.Ports, c.Out.Logf),
		command: func() ([]string, []string, error) {
			c.Ports.Unreserve()
			l := e.launch.Load()
			return slices.Concat([]string{"dockerd"}, l.flags), slices.Concat(dockerdEnv, l.env), nil
		},
		onReady: e.dockerdReady, hopeless: refused,
		onEnd: func() { c.Out.Put(guestapi.Event{EngineEnded: &guestapi.EngineEnded{}}) },
	}
	return e
}

// cas is the file in which dockerd finds whom to trust. It is dockerd's own, so that
// it can be told whether dockerd has read it, which it does once.
func (e *Engine) cas() string { return filepath.Join(e.runDir, "cas.pem") }

// hostRegistries is the directory of the certificates of registries that the host has.
func (e *Engine) hostRegistries() string { return filepath.Join(e.runDir, "certs.d") }

// StartContainerd starts containerd; its directories are there.
func (e *Engine) StartContainerd(ctx context.Context) error {
	if err := wholefile.Write(containerdConfig, composeContainerdConfig(), 0o644); err != nil {
		return err
	}
	e.containerd.up()
	go e.containerd.supervise(ctx)
	return nil
}

// StartDockerd starts dockerd for the machine of that configuration.
func (e *Engine) StartDockerd(ctx context.Context, options guestapi.Engine, id guestapi.Identity) error {
	// Registries' own certificates persist where boot2docker kept them.
	if err := os.MkdirAll("/etc/docker", 0o755); err != nil {
		return fmt.Errorf("making /etc/docker: %w", err)
	}
	err := os.Symlink("/var/lib/boot2docker/etc/docker/certs.d", "/etc/docker/certs.d")
	if err != nil && !errors.Is(err, os.ErrExist) {
		return fmt.Errorf("making /etc/docker/certs.d: %w", err)
	}
	if options.ID != "" {
		if err := wholefile.Write(engineIDFile, []byte(options.ID), 0o600); err != nil {
			return err
		}
	}
	e.mu.Lock()
	e.options = options
	e.started = true
	err = e.prepare(id)
	e.mu.Unlock()
	if err != nil {
		return err
	}
	e.dockerd.up()
	go e.dockerd.supervise(ctx)
	return nil
}

// prepare writes what dockerd reads at its start. The caller holds mu.
func (e *Engine) prepare(id guestapi.Identity) error {
	cas, err := e.trustCAs(id.Surroundings.CAs)
	if err != nil {
		return err
	}
	// Without them the rest of the engine works.
	if err := linkRegistries(registriesDir, e.hostRegistries(), id.Surroundings.Registries); err != nil {
		e.out.Logf("%v", err)
	}
	// A profile that cannot be read is the user's to mend, over SSH; the engine
	// starts without it.
	p, err := readProfile(e.reaper, profilePath)
	if err == nil {
		err = errors.Join(e.front.AddCerts(p.ca, p.cert, p.key), e.front.AddPort(p.port))
	}
	if err != nil {
		e.out.Logf("%v", err)
	}
	config, err := e.compose(id, p.options)
	if err != nil {
		return err
	}
	for _, note := range config.notes {
		e.out.Logf("%s", note)
	}
	e.launch.Store(&launch{flags: config.flags, env: slices.Concat(e.options.Env, p.env)})
	e.id = id
	e.launched = launchState{proxies: maps.Clone(id.Proxies), cas: cas}
	return wholefile.Write(daemonJSON, config.file, 0o644)
}

func (e *Engine) compose(id guestapi.Identity, more []string) (dockerdConfig, error) {
	user, err := os.ReadFile(userDaemonJSON)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return dockerdConfig{}, fmt.Errorf("reading the user's engine configuration: %w", err)
	}
	options := e.options
	options.Options = slices.Concat(options.Options, more)
	return composeDockerdConfig(id, options, user)
}

// dockerdReady tells the host that the engine answers.
func (e *Engine) dockerdReady() {
	e.out.Phase(guestapi.PhaseEngine)
	if err := randomizeAddresses(); err != nil {
		e.out.Logf("%v", err)
	}
	if err := e.restartContainers(); err != nil { // of a freeze that was not thawed
		e.out.Logf("%v", err)
	}
	e.Repeat()
}

// randomizeAddresses has programs started from now on laid out at random. The
// host may have switched that off for the boot (norandmaps), where an emulator
// would translate every program anew at every start; containers get it.
func randomizeAddresses() error {
	if err := os.WriteFile("/proc/sys/kernel/randomize_va_space", []byte("2"), 0); err != nil {
		return fmt.Errorf("randomizing addresses: %w", err)
	}
	return nil
}

// Rehearse asks the engine before anybody else does, and forgets the answer. Under
// emulation all code is translated when it first runs, again after each thaw.
func (e *Engine) Rehearse(path string) {
	const bound = 10 * time.Second // it is of no importance
	if answer, err := ask(Socket, "GET", path, bound); err == nil {
		io.Copy(io.Discard, answer)
		answer.Close()
	}
}

// RehearseStart is the like for the start of a program: of a small one that dockerd starts,
// too, and that is at the same address each time.
func (e *Engine) RehearseStart() { e.reaper.Run(nil, "docker-init", "--version") }

// Repeat tells the host that the engine is ready, if it still is. Whoever is new there has
// not heard it.
func (e *Engine) Repeat() {
	if state, _ := e.dockerd.watch(); state.ready {
		e.out.Put(guestapi.Event{EngineReady: &guestapi.EngineReady{}})
	}
}

// Stop ends dockerd, which stops the containers, then containerd.
func (e *Engine) Stop() error {
	// Without mu, which a restart of dockerd may hold for minutes.
	return errors.Join(e.dockerd.stop(dockerdStop), e.containerd.stop(containerdStop))
}

// stopDockerd ends dockerd alone, with the containers. Its next start takes half the time.
func (e *Engine) stopDockerd() error {
	if err := e.dockerd.stop(dockerdStop); err != nil {
		return err
	}
	if err := ForgetDefaultBridge(); err != nil {
		e.out.Logf("%v", err)
	}
	return nil
}

// Command does what /etc/init.d/docker asks.
func (e *Engine) Command(verb string) error {
	switch verb {
	case "stop":
		return e.stopDockerd()
	case "start", "restart":
		if verb == "restart" {
			if err := e.stopDockerd(); err != nil {
				return err
			}
		}
		e.mu.Lock()
		defer e.mu.Unlock()
		if !e.started {
			return errors.New("starting dockerd: the machine is still booting")
		}
		// The user may have edited what it reads.
		if err := e.prepare(e.id); err != nil {
			return err
		}
		e.dockerd.up()
		return e.dockerd.awaitReady(dockerdStart)
	case "status":
		if state, _ := e.dockerd.watch(); state.current == nil {
			return errors.New("dockerd does not run")
		}
		return nil
	}
	return fmt.Errorf("unknown command %q of the engine; want start, stop, restart or status", verb)
}
