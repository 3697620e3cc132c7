package guestapi

import (
	"bytes"
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"
)

// Bounds of Surroundings, in bytes where nothing else is said.
const (
	MaxSearch        = 32  // domains
	MaxSearchDomain  = 253 // RFC 1035's, without the final dot
	MaxZone          = 32 << 10
	MaxCAs           = 256 << 10
	MaxRegistryFiles = 256 // files
	MaxRegistryFile  = 64 << 10
	MaxRegistries    = 128 << 10 // all those files together
)

// Surroundings are what a machine has of its host's settings.
type Surroundings struct {
	Search          []string       `json:"search,omitempty"`          // domains in which names are looked for
	ResolverOptions []string       `json:"resolverOptions,omitempty"` // as in resolv.conf(5)
	Zone            *Zone          `json:"zone,omitempty"`            // nil leaves the image's
	CAs             string         `json:"cas,omitempty"`             // PEM: what the host trusts and the image may not
	Registries      []RegistryFile `json:"registries,omitempty"`      // certificates of registries
}

// A Zone is a time zone.
type Zone struct {
	Name string `json:"name,omitempty"` // such as Europe/Berlin, where it is known
	Data []byte `json:"data"`           // TZif, RFC 9636
}

var zoneName = regexp.MustCompile(`^[A-Za-z0-9_+-]{1,32}(/[A-Za-z0-9_+-]{1,32}){0,3}$`)

// IsZoneName tells whether a zone may have that name.
func IsZoneName(name string) bool { return zoneName.MatchString(name) }

// Check says what is wrong with a zone, nil if nothing is.
func (z *Zone) Check() error {
	switch {
	case len(z.Data) > MaxZone:
		return fmt.Errorf("%d bytes are too many for a time zone: at most %d", len(z.Data), MaxZone)
	case len(z.Data) < 44 || !bytes.HasPrefix(z.Data, []byte("TZif")): // its header
		return errors.New("it is no time zone")
	case z.Name != "" && !IsZoneName(z.Name):
		return fmt.Errorf("%q is no time zone's name", z.Name[:min(len(z.Name), 64)])
	}
	return nil
}

// A RegistryFile is a file of docker's certs.d(5): a CA (.crt), or a client's certificate
// (.cert) or key (.key).
type RegistryFile struct {
	Registry string `json:"registry"` // HOST or HOST:PORT
	Name     string `json:"name"`
	Data     []byte `json:"data"`
}

var (
	registryName = regexp.MustCompile(`^[A-Za-z0-9_\[][A-Za-z0-9_.:\[\]-]{0,260}$`)
	registryFile = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_. @+-]{0,120}\.(crt|cert|key)$`)
)

// Check says what is wrong with it, nil if nothing is.
func (f *RegistryFile) Check() error {
	switch {
	case !registryName.MatchString(f.Registry) || strings.Contains(f.Registry, ".."):
		return fmt.Errorf("%.64q is no registry's name", f.Registry)
	case !registryFile.MatchString(f.Name):
		return fmt.Errorf("%.64q is no name of a certificate or key", f.Name)
	case len(f.Data) > MaxRegistryFile:
		return fmt.Errorf("%d bytes are too many for a certificate: at most %d", len(f.Data), MaxRegistryFile)
	}
	return nil
}

var searchDomain = regexp.MustCompile(`^[A-Za-z0-9_]([A-Za-z0-9_-]*[A-Za-z0-9_])?(\.[A-Za-z0-9_]([A-Za-z0-9_-]*[A-Za-z0-9_])?)*$`)

// IsSearchDomain tells whether names can be looked for in that domain. The root, ".", is
// none: it is what there is without.
func IsSearchDomain(domain string) bool {
	domain = strings.TrimSuffix(domain, ".")
	return len(domain) <= MaxSearchDomain && searchDomain.MatchString(domain)
}

// Options of resolv.conf(5) that a resolver has which asks one server, with their greatest
// values, 0 where they have none. rotate is about several servers, and
// trust-ad, debug and inet6 are the host's own.
var resolverOptions = map[string]int{
	"ndots": 15, "timeout": 30, "attempts": 5,
	"edns0": 0, "single-request": 0, "single-request-reopen": 0, "no-tld-query": 0, "use-vc": 0, "no-aaaa": 0,
}

// IsResolverOption tells whether a guest's resolver has that option, with that value.
func IsResolverOption(option string) bool {
	name, value, has := strings.Cut(option, ":")
	most, known := resolverOptions[name]
	if !known || has != (most > 0) {
		return false
	}
	n, err := strconv.Atoi(value)
	return !has || err == nil && n >= 0 && n <= most && strconv.Itoa(n) == value
}
