package dockermachine

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/hyve-vm/hyve/internal/guestapi"
	"github.com/hyve-vm/hyve/internal/hint"
	"github.com/hyve-vm/hyve/internal/lifecycle"
	"github.com/hyve-vm/hyve/internal/machine"
	"github.com/hyve-vm/hyve/internal/pki"
)

// defaultDriver is the one that docker-machine took where none was named.
const defaultDriver = "virtualbox"

// installURL is where docker-machine had the engine from.
const installURL = "https://get.docker.com"

// A request is what the flags of create say.
type request struct {
	driver   string
	url      string // of an engine to adopt
	spec     machine.Spec
	warnings []string
}

// warn notes that a flag has no meaning any more.
func (r *request) warn(flag, why string) {
	r.warnings = append(r.warnings, fmt.Sprintf("--%s is not used: %s", flag, why))
}

func (c *client) createWord() *word {
	w := &word{name: "create", usage: "Create a machine", raw: true,
		description: fmt.Sprintf("Run '%s create --driver name --help' to include the create flags for that driver in the help text.", Name)}
	_, flags, _ := c.createFlags(defaultDriver)
	w.flags = flags // for help create
	w.run = func(ctx context.Context, args []string) error {
		driver := cmp.Or(driverFlag(args), c.getenv("MACHINE_DRIVER"), defaultDriver)
		r, flags, settle := c.createFlags(driver)
		if w.flags = flags; flags == nil {
			return message("Driver %q not found: hyve makes machines on this host; for an engine elsewhere use "+
				"docker context create NAME --docker host=ssh://USER@HOST", driver)
		}
		names, err := parse(flags, args, true)
		if errors.Is(err, errHelp) {
			c.wordHelp(w)
			return nil
		}
		if err == nil {
			err = settle()
		}
		if err != nil {
			return c.misuse(err, func() { c.wordHelp(w) })
		}
		switch {
		case len(names) > 1:
			return message("Invalid command line. Found extra arguments %v", names[1:])
		case len(names) == 0 || names[0] == "":
			c.wordHelp(w)
			return message("Error: No machine name specified")
		}
		if c.misplaced != nil {
			return c.misplaced
		}
		return c.create(ctx, names[0], r)
	}
	return w
}

// driverFlag looks for the driver's name, which decides what other flags there are.
func driverFlag(args []string) string {
	for i, arg := range args {
		name, value, valued := strings.Cut(strings.TrimPrefix(strings.TrimPrefix(arg, "-"), "-"), "=")
		switch {
		case arg == "--":
			return ""
		case !strings.HasPrefix(arg, "-") || name != "driver" && name != "d":
		case valued:
			return value
		case i+1 < len(args):
			return args[i+1]
		}
	}
	return ""
}

func (c *client) create(ctx context.Context, name string, r *request) error {
	if !hostName.MatchString(name) {
		return message("Error creating machine: Invalid hostname specified. Allowed hostname chars are: 0-9a-zA-Z . -")
	}
	// docker-machine takes more names, of which some are no host's or file's.
	err := machine.CheckName(name)
	if err == nil {
		err = c.home.CheckMake()
	}
	if err != nil {
		c.inform("Running pre-create checks...")
		return preCreate(err)
	}
	if _, err := c.find(name); err == nil {
		return message("Docker machine %q already exists", name)
	}
	r.spec.Name, r.spec.Engine = name, c.getenv("HYVE_ENGINE")
	if r.driver == driverNone {
		return c.createAdopted(name, r)
	}
	options := lifecycle.CreateOptions{Spec: r.spec, CommonLabels: []string{providerLabel(r.driver)}}
	// Before anything is made, the CA as well.
	check := lifecycle.Check(ctx, c.home, options)
	if check == nil {
		if err := c.bootstrap(); err != nil {
			return message("Error generating certificates: %w", err)
		}
	}
	c.inform("Running pre-create checks...")
	if check != nil {
		return preCreate(check)
	}
	for _, warning := range r.warnings {
		c.inform("(%s) %s", name, warning)
	}
	options.Contexts = c.contexts()
	c.inform("Creating machine...")
	return c.make(ctx, name, options)
}

// preCreate is what there is to say to what is wrong before anything is made.
func preCreate(err error) error {
	return &statusError{message("Error with pre-create check: %w", quoted{err}), exitPreCreate}
}

// quoted is an error whose text stands in quotation marks.
type quoted struct{ error }

func (q quoted) Error() string { return fmt.Sprintf("%q", q.error.Error()) }
func (q quoted) Unwrap() error { return q.error }

// make makes a machine and sees to it that it works. One that does not is removed.
func (c *client) make(ctx context.Context, name string, options lifecycle.CreateOptions) error {
	report := &report{client: c, name: name}
	m, err := lifecycle.Create(ctx, c.home, options, report.follower())
	report.close()
	if err != nil {
		return message("Error creating machine: Error in driver during machine creation: %w", c.inItsWords(err))
	}
	if err := c.connect(ctx, m); err != nil {
		// Whatever ended ctx must not keep this from its work.
		removed := lifecycle.Remove(context.WithoutCancel(ctx), c.home, name)
		return errors.Join(message("Error creating machine: %w", err), removed, options.Contexts.Remove(name))
	}
	c.inform("To see how to connect your Docker Client to the Docker Engine running on this virtual machine, run: %s env %s", c.args[0], name)
	return nil
}

// inItsWords gives an error about a new machine a way out that docker-machine has.
func (c *client) inItsWords(err error) error {
	if failed := (*lifecycle.StartError)(nil); errors.As(err, &failed) && failed.Removed && failed.Failure.Hint == "" {
		return hint.With(err, fmt.Sprintf("it was removed; where the engine refuses a setting, create it again with another one (%s create --help lists them)", Name))
	}
	return err
}

// connect reaches a new machine as its user will. Of its system and its SSH server nobody
// has to be asked: the one is hyve's own, the other was there before the engine.
func (c *client) connect(ctx context.Context, m *machine.Machine) error {
	h := &host{name: m.Name, machine: m, dir: string(m.Dir())}
	c.inform("Detecting operating system of created instance...")
	c.inform("Waiting for SSH to be available...")
	c.inform("Detecting the provisioner...")
	c.inform("Provisioning with boot2docker...")
	c.inform("Copying certs to the local machine directory...")
	ca, err := pki.OpenCA(c.home.PKIDir())
	if err != nil {
		return err
	}
	if err := ca.Export(string(m.Dir()), m.EngineCAs...); err != nil {
		return err
	}
	c.inform("Checking connection to Docker...")
	url, err := h.url(ctx)
	if err == nil {
		err = h.dial(ctx, url)
	}
	if err != nil {
		return message("Error checking the host: %w", err)
	}
	c.inform("Docker is up and running!")
	return nil
}

// createAdopted takes an engine in that somebody else runs.
func (c *client) createAdopted(name string, r *request) error {
	if r.url == "" {
		return message("Error setting machine configuration from flags provided: --url option is required when no driver is selected")
	}
	if err := checkURL(r.url); err != nil {
		return message("Error setting machine configuration from flags provided: %w", err)
	}
	// Before anything is made, the CA as well.
	own, check := c.givenCertificates()
	if check == nil {
		if err := c.bootstrap(); err != nil {
			return message("Error generating certificates: %w", err)
		}
	}
	c.inform("Running pre-create checks...")
	if check != nil {
		return preCreate(check)
	}
	for _, warning := range r.warnings {
		c.inform("(%s) %s", name, warning)
	}
	c.inform("Creating machine...")
	e := &engine{Name: name, URL: r.url, Labels: r.spec.Labels[:len(r.spec.Labels)-1], Format: engineFormat}
	if err := c.adopt(e, own); err != nil {
		return message("Error creating machine: %w", err)
	}
	c.inform("To see how to connect your Docker Client to the Docker Engine running on this virtual machine, run: %s env %s", c.args[0], name)
	return nil
}

// adopt keeps an engine, with hyve's own certificates for those that are not given.
func (c *client) adopt(e *engine, own *certificates) error {
	if own != nil {
		ca, err := pki.OpenCA(c.home.PKIDir())
		if err != nil {
			return err
		}
		if err := own.fill(ca); err != nil {
			return err
		}
	}
	return e.keep(c.home, own)
}

// settings puts the flags that all drivers share into a machine's description.
func (r *request) settings(s *shared) {
	spec := &r.spec
	spec.Driver = r.driver
	spec.EngineEnv = s.env
	spec.InsecureRegistries, spec.RegistryMirrors = s.insecure, s.mirrors
	spec.CertNames = s.names
	spec.Labels = append(slices.Clip(s.labels), providerLabel(r.driver))
	for _, option := range s.options {
		if name, owned := guestapi.OwnedOption(option); owned {
			r.warn("engine-opt "+printable(name), "it belongs to hyve, which keeps the engine private")
		} else {
			spec.EngineOptions = append(spec.EngineOptions, option)
		}
	}
	switch s.storage {
	case "", "overlay2":
	case "aufs", "devicemapper", "overlay":
		r.warn("engine-storage-driver", s.storage+" is gone from the engine, which uses overlay2")
	default:
		spec.EngineOptions = append(spec.EngineOptions, "storage-driver="+s.storage)
	}
	if s.install != installURL {
		r.warn("engine-install-url", "the guest image brings its engine")
	}
}
