package dockermachine

import (
	"errors"
	"fmt"
	"runtime"
	"strconv"
	"strings"

	"github.com/hyve-vm/hyve/internal/dockermachine/driver"
)

// shared are the flags of create that all drivers have.
type shared struct {
	driver, install, storage                       string
	options, insecure, mirrors, labels, env, names []string
}

// swarmFlags are those of classic Swarm, with what they take.
var swarmFlags = []struct{ name, kind, value, env, usage string }{
	{"swarm", "bool", "", "", "Configure Machine to join a Swarm cluster"},
	{"swarm-image", "string", "swarm:latest", "MACHINE_SWARM_IMAGE", "Specify Docker image to use for Swarm"},
	{"swarm-master", "bool", "", "", "Configure Machine to be a Swarm master"},
	{"swarm-discovery", "string", "", "", "Discovery service to use with Swarm"},
	{"swarm-strategy", "string", "spread", "", "Define a default scheduling strategy for Swarm"},
	{"swarm-opt", "list", "", "", "Define arbitrary flags for Swarm master"},
	{"swarm-join-opt", "list", "", "", "Define arbitrary flags for Swarm join"},
	{"swarm-host", "string", "tcp://0.0.0.0:3376", "", "ip/socket to listen on for Swarm master"},
	{"swarm-addr", "string", "", "", "addr to advertise for Swarm (default: detect and use the machine IP)"},
	{"swarm-experimental", "bool", "", "", "Enable Swarm experimental features"},
}

// A driverOption is a flag of a driver that hyve stands in for.
type driverOption struct {
	name string // with the driver's, as "xhyve-cpu-count"
	env  string // variable that stands in for the flag
	kind string // "string", "int", "bool", "list"
	// set puts a value into the machine's description; nil of a flag that is gone.
	set   func(r *request, flag, value string) error
	about string // what it does, or why it is gone
}

// xhyveOptions are docker-machine-driver-xhyve's, under the driver's name xhyve or hyve.
func xhyveOptions(name string) []driverOption {
	setters := map[string]func(*request, string, string) error{
		"cpu-count": setCPUs, "memory-size": setMemory, "disk-size": setDisk, "boot2docker-url": setImage,
	}
	kinds := map[driver.Kind]string{driver.Text: "string", driver.Number: "int", driver.Switch: "bool", driver.List: "list"}
	var options []driverOption
	for _, f := range driver.Flags {
		o := driverOption{f.Long(name), f.Variable(name), kinds[f.Kind], setters[f.Name], f.Usage}
		if f.Ignored != "" {
			o.about = f.Ignored
		}
		if f.Name == "uuid" {
			o.about = "machines keep their addresses without it"
		}
		options = append(options, o)
	}
	return options
}

// virtualboxOptions are docker-machine's own virtualbox driver's.
var virtualboxOptions = []driverOption{
	{"virtualbox-memory", "VIRTUALBOX_MEMORY_SIZE", "int", setMemory, "Size of memory for host in MB"},
	{"virtualbox-cpu-count", "VIRTUALBOX_CPU_COUNT", "int", setCPUs, cpus},
	{"virtualbox-disk-size", "VIRTUALBOX_DISK_SIZE", "int", setDisk, "Size of disk for host in MB, which takes only what is used"},
	{"virtualbox-boot2docker-url", "VIRTUALBOX_BOOT2DOCKER_URL", "string", setImage, digest},
	{"virtualbox-import-boot2docker-vm", "VIRTUALBOX_BOOT2DOCKER_IMPORT_VM", "string", nil, "there is no VirtualBox to take it from"},
	{"virtualbox-host-dns-resolver", "VIRTUALBOX_HOST_DNS_RESOLVER", "bool", nil, hostNames},
	{"virtualbox-nat-nictype", "VIRTUALBOX_NAT_NICTYPE", "string", nil, ownNetwork},
	{"virtualbox-hostonly-cidr", "VIRTUALBOX_HOSTONLY_CIDR", "string", nil, ownNetwork},
	{"virtualbox-hostonly-nictype", "VIRTUALBOX_HOSTONLY_NIC_TYPE", "string", nil, ownNetwork},
	{"virtualbox-hostonly-nicpromisc", "VIRTUALBOX_HOSTONLY_NIC_PROMISC", "string", nil, ownNetwork},
	{"virtualbox-ui-type", "VIRTUALBOX_UI_TYPE", "string", nil, "machines have no screen"},
	{"virtualbox-hostonly-no-dhcp", "VIRTUALBOX_HOSTONLY_NO_DHCP", "bool", nil, ownNetwork},
	{"virtualbox-no-share", "VIRTUALBOX_NO_SHARE", "bool", asItIs, "Disable the mount of your home directory, which is how it is"},
	{"virtualbox-no-dns-proxy", "VIRTUALBOX_NO_DNS_PROXY", "bool", nil, hostNames},
	{"virtualbox-no-vtx-check", "VIRTUALBOX_NO_VTX_CHECK", "bool", nil, "hyve finds out itself what the host can do"},
	{"virtualbox-share-folder", "VIRTUALBOX_SHARE_FOLDER", "string", nil, noShares},
}

// What flags do.
const (
	cpus   = "Number of CPUs for the machine; below 1: all of the host's"
	digest = "Digest of one of hyve's guest images (sha256:...)"
)

// Why flags are gone.
const (
	noShares   = "hyve shares no directories yet; docker cp and " + Name + " scp copy them"
	hostNames  = "names always resolve as on the host"
	ownNetwork = "a machine is on no network of the host; its ports are on its own loopback address"
)

// asItIs is for flags that ask for what hyve does anyway.
func asItIs(*request, string, string) error { return nil }

// setCPUs reads a number of CPUs. Less than 1 are all of the host's.
func setCPUs(r *request, flag, value string) error {
	n, err := number(flag, value)
	if n < 1 {
		n = runtime.NumCPU()
	}
	r.spec.CPUs = n
	return err
}

func setMemory(r *request, flag, value string) error {
	n, err := number(flag, value)
	r.spec.Memory = int64(n) << 20
	return err
}

func setDisk(r *request, flag, value string) error {
	n, err := number(flag, value)
	r.spec.Disk = int64(n) << 20
	return err
}

// setImage takes the digest of one of hyve's images. Others boot other guests.
func setImage(r *request, flag, value string) error {
	if strings.HasPrefix(value, "sha256:") {
		r.spec.Image = value
		return nil
	}
	r.warn(flag, "hyve builds its guest image itself (hyve image ls shows what there is)")
	return nil
}

// maxNumber bounds numbers of MB so that they are bytes as well.
const maxNumber = 1 << 40

func number(flag, value string) (int, error) {
	n, err := strconv.Atoi(value)
	switch {
	case errors.Is(err, strconv.ErrRange) || n > maxNumber || n < -maxNumber:
		return 0, fmt.Errorf("invalid value %q for flag -%s: it is out of range", value, flag)
	case err != nil:
		return 0, fmt.Errorf("invalid value %q for flag -%s: it is not a number", value, flag)
	}
	return n, nil
}

// optionsOf returns the options of a driver that hyve stands in for, each under its whole
// name; false if it does not.
func optionsOf(driver string) ([]driverOption, bool) {
	switch driver {
	case "hyve":
		return append(xhyveOptions("hyve"), xhyveOptions("xhyve")...), true
	case "xhyve":
		return xhyveOptions("xhyve"), true
	case "virtualbox":
		return virtualboxOptions, true
	case driverNone:
		return nil, true
	}
	return nil, false
}

// createFlags returns the flags of create for a driver, nil if hyve does not stand in for
// it, and what is to be called when they have been read.
func (c *client) createFlags(driver string) (r *request, f flagSet, settle func() error) {
	options, ok := optionsOf(driver)
	if !ok {
		return nil, nil, nil
	}
	r = &request{driver: driver}
	var s shared
	f = newFlags()
	f.SortFlags = true // for want of a better order
	f.StringVarP(&s.driver, "driver", "d", defaultDriver, "Driver to create machine with. [$MACHINE_DRIVER]")
	f.StringVar(&s.install, "engine-install-url", installURL, "Custom URL to use for engine installation [$MACHINE_DOCKER_INSTALL_URL]")
	f.StringArrayVar(&s.options, "engine-opt", nil, "Specify arbitrary flags to include with the created engine in the form flag=value")
	f.StringArrayVar(&s.insecure, "engine-insecure-registry", nil, "Specify insecure registries to allow with the created engine")
	f.StringArrayVar(&s.mirrors, "engine-registry-mirror", nil, "Specify registry mirrors to use [$ENGINE_REGISTRY_MIRROR]")
	f.StringArrayVar(&s.labels, "engine-label", nil, "Specify labels for the created engine")
	f.StringVar(&s.storage, "engine-storage-driver", "", "Specify a storage driver to use with the engine")
	f.StringArrayVar(&s.env, "engine-env", nil, "Specify environment variables to set in the engine")
	for _, flag := range swarmFlags {
		addFlag(f, flag.name, flag.kind, flag.value, usage(flag.usage, flag.env))
	}
	f.StringArrayVar(&s.names, "tls-san", nil, "Support extra SANs for TLS certs")
	for _, o := range options {
		about := o.about
		if o.set == nil {
			about = "Not used: " + about
		}
		addFlag(f, o.name, o.kind, "", usage(about, o.env))
	}
	if driver == driverNone {
		f.StringVar(&r.url, "url", "", "URL of host when no driver is selected")
	}
	return r, f, func() error {
		c.fromEnvironment(f, &s)
		r.settings(&s)
		c.forget(r, f)
		return c.settle(r, f, options)
	}
}

func usage(text, env string) string {
	if env == "" {
		return text
	}
	return strings.TrimSpace(text + " [$" + env + "]")
}

// addFlag adds a flag that is read by its name.
func addFlag(f flagSet, name, kind, value, usage string) {
	switch kind {
	case "bool":
		f.Bool(name, false, usage)
	case "list":
		f.StringArray(name, nil, usage)
	default:
		f.String(name, value, usage)
	}
}

// fromEnvironment takes the shared flags that were not given from their variables.
func (c *client) fromEnvironment(f flagSet, s *shared) {
	if mirrors := c.getenv("ENGINE_REGISTRY_MIRROR"); mirrors != "" && !f.Changed("engine-registry-mirror") {
		s.mirrors = strings.Split(mirrors, ",")
	}
	if install := c.getenv("MACHINE_DOCKER_INSTALL_URL"); install != "" && !f.Changed("engine-install-url") {
		s.install = install
	}
}

// forget warns of each flag of classic Swarm, and of keys of another CA.
func (c *client) forget(r *request, f flagSet) {
	for _, flag := range swarmFlags {
		if f.Changed(flag.name) || flag.env != "" && c.getenv(flag.env) != "" {
			r.warn(flag.name, "classic Swarm is gone; docker swarm init makes a swarm of an engine")
		}
	}
	if r.driver == driverNone {
		return
	}
	for _, file := range []struct{ flag, value string }{
		{"tls-ca-cert", c.caCert}, {"tls-ca-key", c.caKey}, {"tls-client-cert", c.clientCert}, {"tls-client-key", c.clientKey},
	} {
		if file.value != "" {
			r.warn(file.flag, "hyve has a CA and certificates of its own")
		}
	}
}

// settle puts the driver's own flags into the machine's description: first what variables
// say, then over that what was given.
func (c *client) settle(r *request, f flagSet, options []driverOption) error {
	for _, given := range []bool{false, true} {
		for _, o := range options {
			flag := f.Lookup(o.name)
			value := flag.Value.String()
			if !flag.Changed {
				value = c.getenv(o.env)
			}
			if flag.Changed != given || value == "" {
				continue
			}
			if on, err := strconv.ParseBool(value); o.kind == "bool" && (err != nil || !on) {
				continue
			}
			if err := o.apply(r, value); err != nil {
				return err
			}
		}
	}
	return nil
}

// apply takes a value, or warns that nobody does.
func (o driverOption) apply(r *request, value string) error {
	if o.set == nil {
		r.warn(o.name, o.about)
		return nil
	}
	return o.set(r, o.name, value)
}
