package driver

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/hyve-vm/hyve/internal/control"
	"github.com/hyve-vm/hyve/internal/dockerenv"
	"github.com/hyve-vm/hyve/internal/hint"
	"github.com/hyve-vm/hyve/internal/image/build"
	"github.com/hyve-vm/hyve/internal/lifecycle"
	"github.com/hyve-vm/hyve/internal/machine"
	"github.com/hyve-vm/hyve/internal/pki"
)

// errNotRunning has the words that docker-machine's "ls" takes for a machine at rest.
//
//lint:ignore ST1005 the words are libmachine's
var errNotRunning = errors.New("Host is not running")

// driver is one machine of docker-machine's, and the hyve machine of the same name.
type driver struct {
	name   string // "xhyve", or "hyve"
	getenv func(string) string
	say    func(string) // a line for the user

	mu     sync.Mutex
	config config
}

// configRaw returns the configuration that docker-machine keeps.
func (d *driver) configRaw() ([]byte, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return json.Marshal(d.config)
}

// setConfigRaw takes a configuration that docker-machine has kept.
func (d *driver) setConfigRaw(data []byte) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := json.Unmarshal(data, &d.config); err != nil {
		return fmt.Errorf("reading the driver's configuration: %w", err)
	}
	return nil
}

// now returns a copy of the configuration.
func (d *driver) now() config {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.config
}

// home is hyve's data directory: the one in which the machine was made, else this
// user's.
func (d *driver) home() (machine.Home, error) {
	if home := d.now().HyveHome; home != "" {
		return machine.Home(home), nil
	}
	return machine.DefaultHome(d.getenv)
}

// load returns the machine.
func (d *driver) load() (*machine.Machine, error) {
	home, err := d.home()
	if err != nil {
		return nil, err
	}
	m, err := home.Load(d.now().MachineName)
	return m, withHint(err)
}

// status returns the machine and what it does.
func (d *driver) status(ctx context.Context) (*machine.Machine, control.Status, error) {
	m, err := d.load()
	if err != nil {
		return nil, control.Status{}, err
	}
	status, err := lifecycle.Status(ctx, m.Dir())
	return m, status, err
}

// setFlags takes the flags of a "create".
func (d *driver) setFlags(given FlagValues) error {
	for _, line := range ignored(d.name, given) {
		d.say(line)
	}
	number := func(flag string) int { return given.number(d.name + "-" + flag) }
	d.mu.Lock()
	defer d.mu.Unlock()
	c := &d.config
	c.SSHUser = "docker"
	c.CPU, c.Memory, c.DiskSize = number("cpu-count"), number("memory-size"), int64(number("disk-size"))
	c.Boot2DockerURL = given.text(d.name + "-boot2docker-url")
	c.SwarmMaster, c.SwarmHost, c.SwarmDiscovery = given.flag("swarm-master"), given.text("swarm-host"), given.text("swarm-discovery")
	home, err := machine.DefaultHome(d.getenv)
	c.HyveHome = string(home)
	return err
}

// options says what machine the flags ask for. Labels, mirrors and the like are not
// the driver's: docker-machine writes them into the guest's profile.
func (d *driver) options(keys ...string) (machine.Home, lifecycle.CreateOptions, error) {
	c := d.now()
	home, err := d.home()
	if err != nil {
		return "", lifecycle.CreateOptions{}, err
	}
	options := lifecycle.CreateOptions{Spec: machine.Spec{
		Name: c.MachineName, CPUs: max(c.CPU, 0), Memory: bytes(int64(c.Memory)), Disk: bytes(c.DiskSize),
		Engine: d.getenv("HYVE_ENGINE"), AuthorizedKeys: keys, EngineCAs: c.engineCAs(), Driver: d.name,
	}}
	if c.CPU < 0 {
		options.Spec.CPUs = runtime.NumCPU()
	}
	switch url := c.Boot2DockerURL; {
	case strings.HasPrefix(url, "sha256:"):
		options.Spec.Image = url
	case url != "":
		d.say(fmt.Sprintf("--%s-boot2docker-url is ignored: hyve boots its own image, and takes the digest of another one of these", d.name))
	}
	options.Contexts, _ = dockerenv.OpenStore(d.getenv, string(home)) // or none
	return home, options, nil
}

// bytes are so many MB, or more than any host has.
func bytes(mb int64) int64 { return max(min(mb, 1<<40), -1<<40) << 20 }

// preCreateCheck tells what is wrong with what was asked for, before anything is made.
func (d *driver) preCreateCheck(ctx context.Context) error {
	home, options, err := d.options()
	if err == nil {
		err = lifecycle.Check(ctx, home, options)
	}
	return withHint(err)
}

// create makes the machine and starts it. Nothing stays of one that does not come up,
// or whose client goes away meanwhile.
func (d *driver) create(ctx context.Context) error {
	c := d.now()
	key, err := pki.OpenSSHKey(c.keyPath())
	if err != nil {
		return withHint(err)
	}
	home, options, err := d.options(key.Public())
	if err != nil {
		return withHint(err)
	}
	if options.Contexts.Dir == "" {
		d.say("docker's contexts are left alone: neither DOCKER_CONFIG nor HOME is set")
	}
	m, err := lifecycle.Create(ctx, home, options, d.follower())
	if err != nil {
		return withHint(afterCreate(err))
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.config.IPAddress = m.Address.String()
	d.config.SSHKeyPath = c.keyPath()
	return nil
}

// afterCreate gives a new machine that did not start a way out that docker-machine has.
func afterCreate(err error) error {
	if failed := (*lifecycle.StartError)(nil); errors.As(err, &failed) && failed.Removed && failed.Failure.Hint == "" {
		failed.Failure.Hint = fmt.Sprintf("hyve has removed it; docker-machine rm -f %s clears away what docker-machine keeps of it", failed.Name)
	}
	return err
}

// follower tells the user the steps of a creation, each once.
func (d *driver) follower() lifecycle.Follower {
	step := d.steps()
	return lifecycle.Follower{
		Image:   func(p build.Progress) { step(p.Stage) },
		Machine: func(s control.Status) { step(s.Activity) },
		Warn:    func(err error) { d.say("warning: " + err.Error()) },
	}
}

// steps returns a function that tells the user of a step unless it was the last one.
func (d *driver) steps() func(string) {
	var mu sync.Mutex
	var last string
	return func(step string) {
		mu.Lock()
		defer mu.Unlock()
		if step != "" && step != last {
			last = step
			d.say(step + "...")
		}
	}
}

// state returns what docker-machine calls the machine's state.
func (d *driver) state(ctx context.Context) (int, error) {
	_, status, err := d.status(ctx)
	if err != nil {
		return stateError, err
	}
	switch status.State {
	case control.Running:
		return stateRunning, nil
	case control.Starting:
		return stateStarting, nil
	case control.Stopping:
		return stateStopping, nil
	case control.Suspended:
		return stateSaved, nil
	case control.Stopped:
		return stateStopped, nil
	}
	return stateError, nil
}

// url is where docker clients reach the engine.
func (d *driver) url(ctx context.Context) (string, error) {
	_, status, err := d.status(ctx)
	if err != nil {
		return "", err
	}
	if status.State != control.Running {
		return "", errNotRunning
	}
	return status.Endpoints.TCP, nil
}

// ip is the machine's own address on this host.
func (d *driver) ip(ctx context.Context) (string, error) {
	m, status, err := d.status(ctx)
	if err != nil {
		return "", err
	}
	if status.State != control.Running {
		return "", errNotRunning
	}
	return m.Address.String(), nil
}

// sshEndpoint is where the guest's SSH server answers.
func (d *driver) sshEndpoint(ctx context.Context) (host string, port int, err error) {
	_, status, err := d.status(ctx)
	if err != nil {
		return "", 0, err
	}
	if status.State != control.Running {
		return "", 0, errNotRunning
	}
	host, text, err := net.SplitHostPort(status.Endpoints.SSH)
	if err != nil {
		return "", 0, fmt.Errorf("reading the SSH server's address: %w", err)
	}
	port, err = strconv.Atoi(text)
	return host, port, err
}

// start starts the machine. One that runs already is fine.
func (d *driver) start(ctx context.Context) error {
	m, err := d.load()
	if err != nil {
		return err
	}
	c := d.now()
	if cas := c.engineCAs(); !slices.Equal(cas, m.EngineCAs) {
		if err := m.SetEngineCAs(cas); err != nil {
			return withHint(err)
		}
	}
	step := d.steps()
	_, err = lifecycle.Start(ctx, m, func(s control.Status) { step(s.Activity) })
	return done(err)
}

func (d *driver) stop(ctx context.Context) error { return d.end(ctx, false) }
func (d *driver) kill(ctx context.Context) error {
	m, err := d.load()
	if err != nil {
		return err
	}
	return ended(ctx, m, lifecycle.Kill(ctx, m.Dir(), m.Name))
}

// end stops the machine; cold, its next start is a boot.
func (d *driver) end(ctx context.Context, cold bool) error {
	m, err := d.load()
	if err != nil {
		return err
	}
	step := d.steps()
	return ended(ctx, m, lifecycle.Stop(ctx, m.Dir(), m.Name, cold, func(s control.Status) { step(s.Activity) }))
}

func (d *driver) restart(ctx context.Context) error {
	if err := d.end(ctx, true); err != nil {
		return err
	}
	return d.start(ctx)
}

// remove removes the machine, and whoever found it gone already is content.
func (d *driver) remove(ctx context.Context) error {
	home, err := d.home()
	if err != nil {
		return err
	}
	contexts, _ := dockerenv.OpenStore(d.getenv, string(home))
	name := d.now().MachineName
	err = lifecycle.Remove(ctx, home, name)
	if gone := (*machine.NotFoundError)(nil); errors.As(err, &gone) {
		return nil
	}
	if err != nil {
		return withHint(err)
	}
	return contexts.Remove(name)
}

// ended is done for what is to make a machine a stopped one, which a suspended one is not:
// docker-machine would wait for that for minutes.
func ended(ctx context.Context, m *machine.Machine, err error) error {
	if errors.Is(err, lifecycle.ErrAlready) {
		if status, _ := lifecycle.Status(ctx, m.Dir()); status.State == control.Suspended {
			err = &lifecycle.SuspendedError{Name: m.Name}
		}
	}
	return done(err)
}

// done is err, unless that says that there was nothing to do.
func done(err error) error {
	if errors.Is(err, lifecycle.ErrAlready) {
		return nil
	}
	return withHint(err)
}

// withHint puts the way out, where an error knows one, behind what it says: text is
// all that docker-machine hears of it.
func withHint(err error) error {
	if way := hint.Of(err); way != "" {
		return fmt.Errorf("%w: %s", err, way)
	}
	return err
}

// printer returns a function that prints lines, whole ones, one after the other.
func printer(w io.Writer) func(string) {
	var mu sync.Mutex
	return func(line string) {
		mu.Lock()
		defer mu.Unlock()
		fmt.Fprintln(w, line)
	}
}
