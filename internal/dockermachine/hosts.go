package dockermachine

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"

	"github.com/hyve-vm/hyve/internal/control"
	"github.com/hyve-vm/hyve/internal/machine"
	"github.com/hyve-vm/hyve/internal/machinestore"
)

// hostName is what docker-machine accepts as a machine's name.
var hostName = regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9\-.]*$`)

// Drivers' names.
const (
	driverNone    = "none"
	driverUnknown = "not found" // of a machine whose config.json cannot be read
)

// A host is a machine as docker-machine's users see it: one of hyve's, an adopted engine,
// or one in docker-machine's own store. Just one of the three is set, none if it is
// broken; but machine and stored are both there if the real docker-machine has made one of
// hyve's, with the driver plugin.
type host struct {
	name    string
	machine *machine.Machine
	engine  *engine
	stored  *machinestore.Host
	store   machinestore.Store // that stored is in
	kind    kind
	err     error // why it is broken
	dir     string
}

// kind tells whose a host is, be it broken.
type kind int

const (
	ours kind = iota
	adopted
	foreign
)

// States, in docker-machine's words.
const (
	running  = "Running"
	saved    = "Saved"
	stopped  = "Stopped"
	stopping = "Stopping"
	starting = "Starting"
	failing  = "Error"
	timedOut = "Timeout"
	// unknown is hyve's own word, for machines whose driver would have to be asked.
	unknown = "Unknown"
)

// stateOf says a state of hyve's in docker-machine's words. A machine that is asleep runs.
func stateOf(s control.State) string {
	switch s {
	case control.Running:
		return running
	case control.Starting:
		return starting
	case control.Stopping:
		return stopping
	case control.Suspended:
		return saved
	case control.Stopped:
		return stopped
	}
	return failing
}

// errNotRunning is what drivers say where there is no address.
var errNotRunning = message("Host is not running")

// errNoMachine is about a name that nothing has.
func errNoMachine(name string) error {
	return message("Docker machine %q does not exist. Use \"%s ls\" to list machines. Use \"%[2]s create\" to add a new one.", name, Name)
}

// errForeign is about a word that would need the driver of a machine that is not hyve's.
func errForeign(h *host) error {
	way := "use the docker-machine that made it"
	if name := h.stored.DriverName; name == "xhyve" || name == "virtualbox" {
		way = fmt.Sprintf("bring it over with hyve import %s, or %s", h.name, way)
	}
	return fmt.Errorf("machine %q is in docker-machine's own store: %s", h.name, way)
}

// load finds a machine. A broken one is an error, too.
func (c *client) load(name string) (*host, error) {
	h, err := c.find(name)
	if err == nil && h.err != nil {
		err = h.err
	}
	return h, err
}

// find finds a machine, be it broken.
func (c *client) find(name string) (*host, error) {
	if !hostName.MatchString(name) {
		return nil, errNoMachine(name)
	}
	h := &host{name: name}
	m, err := c.home.Load(name)
	if err == nil {
		h.own(m)
		if stored, err := c.store.Load(name); c.store != "" && err == nil && pluginHome(stored) == c.home {
			h.stored = stored
		}
		return h, nil
	}
	if broken := (*machine.BrokenError)(nil); errors.As(err, &broken) {
		h.err, h.dir = err, string(c.home.Dir(name))
		return h, nil
	}
	if missing := (*machine.NotFoundError)(nil); !errors.As(err, &missing) && machine.CheckName(name) == nil {
		return nil, err
	}
	h.engine, err = loadEngine(c.home, name)
	if err == nil || !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, syscall.ENAMETOOLONG) {
		h.kind, h.err, h.dir = adopted, err, c.home.Engine(name)
		return h, nil
	}
	if c.store == "" {
		return nil, errNoMachine(name)
	}
	h.stored, err = c.store.Load(name)
	switch {
	case errors.Is(err, machinestore.ErrNotFound):
		return nil, errNoMachine(name)
	case errors.Is(err, machinestore.ErrUnreadable):
		return nil, err
	}
	if err == nil {
		if m, err := pluginHome(h.stored).Load(name); err == nil {
			h.own(m)
			return h, nil
		}
	}
	h.kind, h.err, h.dir, h.store = foreign, err, c.store.Dir(name), c.store
	return h, nil
}

// own makes the host one of hyve's machines.
func (h *host) own(m *machine.Machine) { h.machine, h.dir = m, string(m.Dir()) }

// pluginHome is hyve's data directory that a machine is in which the real docker-machine
// has made with the driver plugin, "" if it was made otherwise.
func pluginHome(h *machinestore.Host) machine.Home {
	var driver struct{ HyveHome string }
	if decodeDriver(h, &driver) != nil || !filepath.IsAbs(driver.HyveHome) {
		return ""
	}
	return machine.Home(driver.HyveHome)
}

// all returns every machine there is, in the order of their names' bytes. One that is
// broken does not hide others, nor do engines or a store that cannot be read: there is a
// line on them.
func (c *client) all() ([]*host, error) {
	entries, err := c.home.List()
	if err != nil {
		return nil, err
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name)
	}
	engines, err := engineNames(c.home)
	if err != nil {
		c.trouble(err)
	}
	names = append(names, engines...)
	var unreadable error
	if c.store != "" {
		var others []string
		others, unreadable = c.store.Names()
		names = append(names, others...)
	}
	slices.Sort(names)
	var hosts []*host
	for _, name := range slices.Compact(names) {
		h, err := c.find(name)
		if errors.Is(err, machinestore.ErrUnreadable) {
			unreadable = err
			continue
		}
		if err != nil {
			// Its name is none, or it went away meanwhile.
			if _, gone := os.Stat(c.store.Dir(name)); gone != nil {
				continue
			}
			h = &host{name: name, kind: foreign, err: errors.New("its name is not one that docker-machine gives")}
		}
		hosts = append(hosts, h)
	}
	if unreadable != nil {
		c.trouble(unreadable)
	}
	return hosts, nil
}

// trouble says in a line what keeps part of a listing from being there.
func (c *client) trouble(err error) { fmt.Fprintln(c.stderr, printable(err.Error())) }

// target is the machine that is meant: the one named, else "default" if that exists.
func (c *client) target(names []string) (*host, error) {
	if len(names) > 0 {
		return c.load(names[0])
	}
	h, err := c.find(defaultName)
	if err != nil {
		return nil, errNoDefault
	}
	return h, h.err
}

// one is target for words that take one name at most.
func (c *client) one(names []string) (*host, error) {
	if len(names) > 1 {
		return nil, errExpectedOne
	}
	return c.target(names)
}

// driver is the driver's name.
func (h *host) driver() string {
	switch {
	case h.err != nil:
		return driverUnknown
	case h.machine != nil:
		return driverOf(h.machine)
	case h.engine != nil:
		return driverNone
	}
	return h.stored.DriverName
}

// certs is the directory of ca.pem, cert.pem and key.pem for docker clients.
func (h *host) certs() string {
	if h.engine != nil {
		return h.engine.certs
	}
	if h.stored != nil && h.stored.DriverName == driverNone {
		// docker-machine copies certificates when it provisions, which it has not done.
		if _, err := os.Stat(filepath.Join(h.dir, "cert.pem")); err != nil {
			return filepath.Join(filepath.Dir(filepath.Dir(h.dir)), "certs")
		}
	}
	return h.dir
}

// storedURL is where a machine in docker-machine's store would be.
func (h *host) storedURL() string {
	if h.stored.DriverName == driverNone {
		var driver struct{ URL string }
		if decodeDriver(h.stored, &driver) != nil || checkURL(driver.URL) != nil {
			return ""
		}
		return driver.URL
	}
	url := "tcp://" + baseOf(h.stored).IPAddress + ":2376"
	if checkURL(url) != nil {
		return ""
	}
	return url
}

// url is where the engine of a machine that runs is.
func (h *host) url(ctx context.Context) (string, error) {
	if h.kind == foreign && h.stored.DriverName != driverNone {
		return "", errForeign(h)
	}
	if h.machine == nil {
		if h.engine != nil {
			return h.engine.URL, nil
		}
		return h.storedURL(), nil
	}
	c, err := h.up(ctx)
	return c.url, err
}

// up is look for words that want a machine that runs. The error says why it does not.
func (h *host) up(ctx context.Context) (condition, error) {
	c := h.look(ctx)
	switch {
	case c.state == running:
		return c, nil
	case c.err != nil:
		return c, c.err
	}
	return c, errNotRunning
}

// address is the machine's address. One without a driver has, as docker-machine has it,
// that of its URL with the port.
func (h *host) address(ctx context.Context) (string, error) {
	url, err := h.url(ctx)
	if err != nil {
		return "", err
	}
	if h.machine != nil {
		return h.machine.Address.String(), nil
	}
	return strings.TrimSuffix(strings.TrimPrefix(url, "tcp://"), "/"), nil
}
