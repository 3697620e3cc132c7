// Package machine holds the nouns of hyve in the user's words: what a machine
// is, where its files are, and whether it runs. It starts nothing.
package machine

import (
	"crypto/x509"
	"fmt"
	"net/netip"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
	"unicode"

	"github.com/docker/go-units"
)

// Bounds of a Spec. Upper bounds of CPUs, memory and disk are the host's.
const (
	MaxName   = 63 // bytes: a DNS label
	MinMemory = 512 << 20
	MinDisk   = 2 << 30

	maxCA = 64 << 10 // bytes

	defaultMaxCPUs   = 4
	defaultMaxMemory = 4 << 30
	defaultMaxDisk   = 64 << 30
)

// Spec is what the user asked for.
type Spec struct {
	Name   string `json:"name"`
	CPUs   int    `json:"cpus"`
	Memory int64  `json:"memory"` // bytes, whole MiB
	Disk   int64  `json:"disk"`   // bytes, whole MiB; the file is sparse

	// Image is the digest of the guest image, "sha256:…".
	Image string `json:"image"`
	// Engine is which Docker engine the image was asked for with, "stable", "newest" or
	// a version; an upgrade stays with it. Empty is what the image has.
	Engine string `json:"engine,omitempty"`
	// Hypervisor is its path where the user named one.
	Hypervisor string `json:"qemu,omitempty"`

	RegistryMirrors    []string `json:"registryMirrors,omitempty"`
	InsecureRegistries []string `json:"insecureRegistries,omitempty"`
	EngineOptions      []string `json:"engineOptions,omitempty"` // dockerd flags without dashes, "name=value"
	EngineEnv          []string `json:"engineEnv,omitempty"`     // dockerd's environment, "NAME=value"
	Labels             []string `json:"labels,omitempty"`        // "key=value"

	// CertNames are host names and addresses, beside the machine's own, that the
	// engine's certificate is good for.
	CertNames []string `json:"certNames,omitempty"`
	// EngineCAs are CAs, in PEM, beside hyve's own, that the engine may show a certificate
	// of: docker-machine's, when that has put its own into the guest.
	EngineCAs []string `json:"engineCAs,omitempty"`
	// AuthorizedKeys are SSH public keys that may log in, beside hyve's own, one line
	// each as in authorized_keys.
	AuthorizedKeys []string `json:"authorizedKeys,omitempty"`

	// Driver is the name under which docker-machine's users asked for the machine,
	// "xhyve" for example. It is for display alone.
	Driver string `json:"driver,omitempty"`

	// Idle is how long nothing has to happen in the machine before it falls asleep, a
	// Go duration of at least a second. Empty is never.
	Idle string `json:"idle,omitempty"`

	// Next is what the machine's next start is to have, nil if that is what it has.
	Next *Boot `json:"next,omitempty"`
	// HostAccess says which ports of the host's own the machine reaches: "off" for none,
	// or a list such as "5432,8000-8010". Empty is all.
	HostAccess string `json:"hostAccess,omitempty"`
	// FromHost is which of its host's settings the machine has: some of AllHostParts,
	// with commas between them, "none", or, for all, empty or "all".
	FromHost string `json:"fromHost,omitempty"`

	// Throwaway says that the machine is to go with the process that made it.
	Throwaway bool `json:"throwaway,omitempty"`
}

// Host is what a host has to give.
type Host struct {
	CPUs   int
	Memory int64 // bytes
	Disk   int64 // bytes: size of the file system under the data directory
}

// ThisHost measures the host whose data directory is dir, which need not exist.
func ThisHost(dir string) (Host, error) {
	memory, err := hostMemory()
	if err != nil {
		return Host{}, fmt.Errorf("asking for the host's memory: %w", err)
	}
	disk, err := fileSystemSize(dir)
	if err != nil {
		return Host{}, fmt.Errorf("asking for the size of the file system of %s: %w", dir, err)
	}
	return Host{CPUs: runtime.NumCPU(), Memory: memory, Disk: disk}, nil
}

// Defaults fills what a Spec leaves open.
func (s *Spec) Defaults(h Host) {
	if s.CPUs == 0 {
		s.CPUs = min(h.CPUs, defaultMaxCPUs)
	}
	if s.Memory == 0 {
		s.Memory = wholeMiB(max(MinMemory, min(h.Memory/2, defaultMaxMemory)))
	}
	if s.Disk == 0 {
		s.Disk = wholeMiB(max(MinDisk, min(h.Disk, defaultMaxDisk)))
	}
}

// A ValueError says that a machine cannot have what was asked for.
type ValueError struct{ error }

// InvalidValue makes an error a *ValueError, nil if there is none.
func InvalidValue(err error) error {
	if err == nil {
		return nil
	}
	return &ValueError{err}
}

func (e *ValueError) Unwrap() error { return e.error }

// Check returns what is wrong with a Spec on a host, nil if nothing is. The error is a
// *ValueError.
func (s *Spec) Check(h Host) error {
	if err := CheckName(s.Name); err != nil {
		return err
	}
	return InvalidValue(s.check(h))
}

func (s *Spec) check(h Host) error {
	if err := checkCPUs(s.CPUs, h); err != nil {
		return err
	}
	if err := checkSize("memory", s.Memory, MinMemory, h.Memory); err != nil {
		return err
	}
	if err := checkSize("disk", s.Disk, MinDisk, h.Disk); err != nil {
		return err
	}
	if err := checkNotOwned(s.EngineOptions); err != nil {
		return err
	}
	return s.checkWords()
}

func checkCPUs(n int, h Host) error {
	if n < 1 || n > h.CPUs {
		return fmt.Errorf("%d CPUs are out of range: this host allows 1 to %d", n, h.CPUs)
	}
	return nil
}

// checkLabels refuses what dockerd does, which would not start.
func checkLabels(labels []string) error {
	values := map[string]string{}
	for _, label := range labels {
		key, value, ok := strings.Cut(label, "=")
		if !ok || key == "" {
			return fmt.Errorf("label %q is not of the form KEY=VALUE", label)
		}
		if strings.ContainsFunc(label, unicode.IsControl) {
			return fmt.Errorf("label %q has control characters in it", label)
		}
		if other, twice := values[key]; twice && other != value {
			return fmt.Errorf("labels %q and %q conflict: a key has one value", key+"="+other, label)
		}
		values[key] = value
	}
	return nil
}

// checkWords is Check for what has nothing to do with the host.
func (s *Spec) checkWords() error {
	if err := checkIdle(s.Idle); err != nil {
		return err
	}
	if _, err := parseHostAccess(s.HostAccess); err != nil {
		return err
	}
	if err := checkFromHost(s.FromHost); err != nil {
		return err
	}
	if err := checkLabels(s.Labels); err != nil {
		return err
	}
	for _, option := range s.EngineOptions {
		if err := checkEngineOption(option); err != nil {
			return err
		}
	}
	for _, registry := range s.InsecureRegistries {
		if err := checkInsecure(registry); err != nil {
			return err
		}
	}
	for _, variable := range s.EngineEnv {
		if !engineVariable.MatchString(variable) {
			return fmt.Errorf("variable %q of the engine is not of the form NAME=VALUE", variable)
		}
	}
	for _, name := range s.CertNames {
		if !isAddress(name) && !certName().MatchString(name) {
			return fmt.Errorf("%q is no host name or address for the engine's certificate", name)
		}
	}
	for _, ca := range s.EngineCAs {
		if len(ca) > maxCA || !x509.NewCertPool().AppendCertsFromPEM([]byte(ca)) {
			return fmt.Errorf("a CA of the engine is not a certificate in PEM, of at most %d bytes", maxCA)
		}
	}
	for _, key := range s.AuthorizedKeys {
		if !authorizedKey.MatchString(key) {
			return fmt.Errorf("%q is not an SSH public key", key)
		}
	}
	for _, mirror := range s.RegistryMirrors {
		if err := checkMirror(mirror); err != nil {
			return err
		}
	}
	return nil
}

func checkIdle(idle string) error {
	if after, err := time.ParseDuration(idle); idle != "" && (err != nil || after < time.Second) {
		return fmt.Errorf("idle time %q is not a duration such as 15m, of at least 1s", idle)
	}
	return nil
}

// HostProxies is the one of AllHostParts that a supervisor has in its own environment.
const HostProxies = "proxies"

// AllHostParts are the settings of a host that a machine can have: where names are looked
// for, the time zone, the CAs that are trusted, certificates and keys for registries, and
// the proxies in the environment, which may have passwords.
var AllHostParts = []string{"search", "zone", "cas", "registries", HostProxies}

func checkFromHost(list string) error {
	if list == "" || list == "all" || list == "none" {
		return nil
	}
	for part := range strings.SplitSeq(list, ",") {
		if !slices.Contains(AllHostParts, part) {
			return fmt.Errorf("%q is nothing that a machine has of its host: all, none, or some of %s", part, strings.Join(AllHostParts, ","))
		}
	}
	return nil
}

// HostParts are those of AllHostParts that the machine has.
func (s *Spec) HostParts() []string {
	switch s.FromHost {
	case "", "all":
		return AllHostParts
	case "none":
		return []string{}
	}
	return strings.Split(s.FromHost, ",")
}

// IdleAfter is Idle, 0 if that is never.
func (s *Spec) IdleAfter() time.Duration {
	after, _ := time.ParseDuration(s.Idle)
	return after
}

var (
	engineOption   = regexp.MustCompile(`^[a-z][a-z0-9-]+(=[^\n\r\x00]*)?$`)
	engineVariable = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*=[^\n\r\x00]*$`)
	// Whose bound takes long to compile, for commands that ask for no name.
	certName = sync.OnceValue(func() *regexp.Regexp {
		return regexp.MustCompile(`^(\*\.)?[a-zA-Z0-9]([a-zA-Z0-9.-]{0,251}[a-zA-Z0-9])?$`)
	})
	authorizedKey = regexp.MustCompile(`^(ssh|ecdsa|sk-ssh|sk-ecdsa)-[a-z0-9@.-]+ [A-Za-z0-9+/=]+( [^\n\r\x00]*)?$`)
)

func checkSize(what string, size, least, most int64) error {
	if most < least {
		return fmt.Errorf("this host's %s of %s is too small: a machine needs %s", what, FormatSize(most), FormatSize(least))
	}
	if size < least || size > most {
		return fmt.Errorf("%s of %s is out of range: this host allows %s to %s",
			what, FormatSize(size), FormatSize(least), FormatSize(most))
	}
	return nil
}

var namePattern = regexp.MustCompile(`^[a-zA-Z0-9]([a-zA-Z0-9.-]*[a-zA-Z0-9])?$`)

// CheckName returns what is wrong with a machine's name, nil if nothing is. A
// name is also a host name, a directory and part of a docker context's name. The error is
// a *ValueError.
func CheckName(name string) error { return InvalidValue(checkName(name)) }

func checkName(name string) error {
	switch {
	case name == "":
		return fmt.Errorf("a machine's name is empty")
	case len(name) > MaxName:
		return fmt.Errorf("a machine's name of %d characters is too long: at most %d", len(name), MaxName)
	case isAddress(name):
		return fmt.Errorf("%q is no machine's name but an address", name)
	case !namePattern.MatchString(name) || strings.Contains(name, ".."):
		return fmt.Errorf("%q is no machine's name: letters, digits, and - or . between them", name)
	}
	return nil
}

func isAddress(name string) bool {
	_, err := netip.ParseAddr(name)
	return err == nil
}

// ParseSize reads a size such as "4GiB", "4g" or "512M" (all powers of 1024);
// a bare number is in MiB, as docker-machine and podman have it. The result
// is in bytes, rounded down to whole MiB.
func ParseSize(s string) (int64, error) {
	if n, err := strconv.ParseInt(s, 10, 64); err == nil {
		if n <= 0 || n > 1<<40 {
			return 0, fmt.Errorf("size %q is out of range", s)
		}
		return n << 20, nil
	}
	n, err := units.RAMInBytes(s)
	if err != nil || n < 0 {
		return 0, fmt.Errorf("size %q is not a number with a unit such as 512MiB or 4GiB", s)
	}
	return wholeMiB(n), nil
}

// FormatSize writes a size in bytes as ParseSize reads it.
func FormatSize(n int64) string {
	if n < 0 {
		return "-" + units.CustomSize("%.4g%s", -float64(n), 1024, sizeUnits)
	}
	return units.CustomSize("%.4g%s", float64(n), 1024, sizeUnits)
}

var sizeUnits = []string{"B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"}

func wholeMiB(n int64) int64 { return n &^ (1<<20 - 1) }
