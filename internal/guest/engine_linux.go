package guest

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/textproto"
	"os"
	"reflect"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/hyve-vm/hyve/internal/guest/front"
	"github.com/hyve-vm/hyve/internal/guest/outbox"
	"github.com/hyve-vm/hyve/internal/guest/process"
	"github.com/hyve-vm/hyve/internal/guest/publish"
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

// An engine is containerd and dockerd with what they are told.
type engine struct {
	reaper     *process.Reaper
	front      *front.Front
	out        *outbox.Outbox
	phase      func(string)
	fail       func(string, error)
	containerd *service
	dockerd    *service

	mu      sync.Mutex
	options guestapi.Engine
	started bool // dockerd was asked to run, with what launched says
	// launched is what dockerd reads only at its start.
	launched launchState
	id       guestapi.Identity

	launch current[launch] // dockerd's next; mu is held across one
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

func newEngine(r *process.Reaper, f *front.Front, published *publish.Ports, out *outbox.Outbox, phase func(string), fail func(string, error)) *engine {
	e := &engine{reaper: r, front: f, out: out, phase: phase, fail: fail}
	env := []string{process.Path, "HOME=/root", "LANG=C.UTF-8"}
	if known, ok := os.LookupEnv("GODEBUG"); ok {
		env = append(env, "GODEBUG="+known) // what the host knows of this processor
	}
	e.containerd = &service{
		name: guestapi.ServiceContainerd, phase: guestapi.PhaseContainerd, runDir: runDir,
		cgroup: cgroupHyve + "/containerd", score: -999, policy: defaultPolicy, reaper: r, out: out,
		command: func() ([]string, []string, error) {
			return []string{"containerd", "--config", containerdConfig}, env, nil
		},
		onReady: func() { phase(guestapi.PhaseContainerd) },
	}
	// Of directories dockerd would read every file.
	dockerdEnv := slices.Concat(env, []string{"SSL_CERT_FILE=" + engineCAs, "SSL_CERT_DIR=" + runDir + "/none"})
	e.dockerd = &service{
		name: guestapi.ServiceDockerd, phase: guestapi.PhaseEngine, runDir: runDir,
		cgroup: cgroupHyve + "/dockerd", score: -500, policy: defaultPolicy, reaper: r, out: out,
		gate: publish.NewBindGate(published, out.Logf),
		command: func() ([]string, []string, error) {
			published.Unreserve()
			l, _ := e.launch.get()
			return slices.Concat([]string{"dockerd"}, l.flags), slices.Concat(dockerdEnv, l.env), nil
		},
		onReady: e.dockerdReady, hopeless: refused,
		onEnd: func() { out.Put(guestapi.Event{EngineEnded: &guestapi.EngineEnded{}}) },
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
	cas, err := trustCAs(id.Surroundings.CAs)
	if err != nil {
		return err
	}
	// Without them the rest of the engine works.
	if err := linkRegistries(registriesDir, hostRegistriesDir, id.Surroundings.Registries); err != nil {
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
	e.launch.set(launch{flags: config.flags, env: slices.Concat(e.options.Env, p.env)})
	e.id = id
	e.launched = launchState{proxies: maps.Clone(id.Proxies), cas: cas}
	return writeChanged(daemonJSON, config.file, 0o644)
}

func (e *engine) compose(id guestapi.Identity, more []string) (engineConfig, error) {
	user, err := os.ReadFile(userDaemonJSON)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return engineConfig{}, fmt.Errorf("reading the user's engine configuration: %w", err)
	}
	options := e.options
	options.Options = slices.Concat(options.Options, more)
	return composeEngineConfig(id, options, user)
}

// identify tells a running dockerd of the machine's identity, as far as that concerns it.
func (e *engine) identify(id guestapi.Identity) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if !e.started {
		_, err := trustCAs(id.Surroundings.CAs)
		return err
	}
	if sameToEngine(e.id, id) {
		e.id = id
		return nil
	}
	return e.update(id)
}

// sameToEngine tells whether dockerd need not hear of b after a.
func sameToEngine(a, b guestapi.Identity) bool {
	return a.Network.MTU == b.Network.MTU && a.Network.Host == b.Network.Host && a.Surroundings.CAs == b.Surroundings.CAs &&
		reflect.DeepEqual(a.Surroundings.Registries, b.Surroundings.Registries) && maps.Equal(a.Proxies, b.Proxies) && slices.Equal(a.Labels, b.Labels) &&
		slices.Equal(a.RegistryMirrors, b.RegistryMirrors) && slices.Equal(a.InsecureRegistries, b.InsecureRegistries)
}

// refresh has a running dockerd know what its user has changed since it was told of it.
// Before a freeze, so that nobody has to look for it after the thaw.
func (e *engine) refresh() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if !e.started {
		return nil
	}
	return e.update(e.id)
}

// update tells a running dockerd of what there is to know: by a reload where that is
// enough, else by another start that leaves the containers running. The caller holds mu.
func (e *engine) update(id guestapi.Identity) error {
	before := e.launched
	old, _ := os.ReadFile(daemonJSON)
	cas, err := openWitness(engineCAs)
	if err != nil {
		return fmt.Errorf("looking at what dockerd trusts: %w", err)
	}
	err = e.prepare(id)
	if !cas.read() { // it has yet to read whom to trust, and will read the new ones
		before.cas = e.launched.cas
	}
	if err != nil {
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

// reload has dockerd read daemon.json again and waits until it has, which it
// tells on its stream of events.
func (e *engine) reload() error {
	if state, _ := e.dockerd.watch(); !state.ready {
		return nil // it reads the file when it starts
	}
	events, err := askEngine(dockerSocket, "GET", "/events?filters=%7B%22type%22%3A%5B%22daemon%22%5D%7D", dockerdReload)
	if err != nil {
		return fmt.Errorf("reloading dockerd: %w", err)
	}
	defer events.Close()
	e.dockerd.signal(syscall.SIGHUP)
	lines := bufio.NewScanner(events)
	for lines.Scan() {
		if strings.Contains(lines.Text(), `"reload"`) {
			return nil
		}
	}
	return fmt.Errorf("reloading dockerd: it has not confirmed within %v: %w", dockerdReload, lines.Err())
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
	l, _ := e.launch.get()
	asFlag := slices.ContainsFunc(l.flags, func(f string) bool { return strings.HasPrefix(f, "--live-restore") })
	if !asFlag {
		keys["live-restore"] = true // unless a flag says something, which the file must not repeat
	}
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
	if err := e.dockerd.restart(dockerdRestart); err != nil {
		return err
	}
	err = e.dockerd.awaitReady(dockerdStart)
	// Whatever came of it, the next shutdown is to stop the containers.
	if err := errors.Join(err, writeChanged(daemonJSON, final, 0o644)); err != nil {
		return err
	}
	return e.reload()
}

// dockerdReady tells the host that the engine answers.
func (e *engine) dockerdReady() {
	e.phase(guestapi.PhaseEngine)
	if err := randomizeAddresses(); err != nil {
		e.out.Logf("%v", err)
	}
	if err := e.restartContainers(); err != nil { // of a freeze that was not thawed
		e.out.Logf("%v", err)
	}
	e.repeat()
}

// rehearse asks the engine before anybody else does, and forgets the answer. Under
// emulation all code is translated when it first runs, again after each thaw.
func (e *engine) rehearse(path string) {
	const bound = 10 * time.Second // it is of no importance
	if answer, err := askEngine(dockerSocket, "GET", path, bound); err == nil {
		io.Copy(io.Discard, answer)
		answer.Close()
	}
}

// rehearseStart is the like for the start of a program: of a small one that dockerd starts,
// too, and that is at the same address each time.
func (e *engine) rehearseStart() { e.reaper.Run(nil, "docker-init", "--version") }

// repeat tells the host that the engine is ready, if it still is. Whoever is new there has
// not heard it.
func (e *engine) repeat() {
	if state, _ := e.dockerd.watch(); state.ready {
		e.out.Put(guestapi.Event{EngineReady: &guestapi.EngineReady{}})
	}
}

// stop ends dockerd, which stops the containers, then containerd.
func (e *engine) stop() error {
	// Without mu, which a restart of dockerd may hold for minutes.
	return errors.Join(e.dockerd.stop(dockerdStop), e.containerd.stop(containerdStop))
}

// An answer of the engine's is its body and, beside that, its header.
type answer struct {
	io.Reader
	io.Closer
	header textproto.MIMEHeader
}

// askEngine makes a request and returns the answer. HTTP/1.0 keeps it plain, and ends it
// with the connection, so no HTTP client is needed in PID 1.
func askEngine(socket, method, path string, bound time.Duration) (*answer, error) {
	conn, err := net.Dial("unix", socket)
	if err != nil {
		return nil, fmt.Errorf("asking the engine: %w", err)
	}
	conn.SetDeadline(time.Now().Add(bound))
	body, header, err := exchange(conn, method, path)
	if err != nil {
		conn.Close()
		return nil, fmt.Errorf("asking the engine for %s %s: %w", method, path, err)
	}
	return &answer{body, conn, header}, nil
}

// exchange sends the request and reads the answer up to its body.
func exchange(conn io.ReadWriter, method, path string) (body io.Reader, header textproto.MIMEHeader, err error) {
	if _, err := io.WriteString(conn, method+" "+path+" HTTP/1.0\r\nHost: docker\r\n\r\n"); err != nil {
		return nil, nil, err
	}
	r := bufio.NewReader(conn)
	lines := textproto.NewReader(r)
	status, err := lines.ReadLine()
	if err != nil {
		return nil, nil, err
	}
	// Not modified: a container is already as it is asked to be.
	if fields := strings.Fields(status); len(fields) < 2 || fields[1][0] != '2' && fields[1] != "304" {
		return nil, nil, fmt.Errorf("it answered %q", status)
	}
	header, err = lines.ReadMIMEHeader()
	return r, header, err
}

// stopDockerd ends dockerd alone, with the containers. Its next start takes half the time.
func (e *engine) stopDockerd() error {
	if err := e.dockerd.stop(dockerdStop); err != nil {
		return err
	}
	if err := forgetDefaultBridge(networkStore); err != nil {
		e.out.Logf("%v", err)
	}
	return nil
}

// command does what /etc/init.d/docker asks.
func (e *engine) command(verb string) error {
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
