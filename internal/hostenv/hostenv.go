// Package hostenv reads what a machine has of its host's settings: where names are looked
// for, the time zone, the CAs that are trusted, and certificates of registries. All of it
// comes in bounded sizes, and strictly read: what does not fit is left out, with a word.
package hostenv

import (
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/hyve-vm/hyve/internal/bounded"
	"github.com/hyve-vm/hyve/internal/guestapi"
)

// The parts of what a host may share, as users name them.
const (
	Search     = "search"
	Zone       = "zone"
	CAs        = "cas"
	Registries = "registries"
)

// Parts are all that there are.
var Parts = []string{Search, Zone, CAs, Registries}

// A Host says where a host has its settings.
type Host struct {
	Getenv     func(string) string
	Hostname   func() (string, error)
	ResolvConf string   // path
	Localtime  string   // path
	ZoneInfo   []string // directories of time zones
	Bundles    []string // files of CAs, of which the first that is there counts
	CADirs     []string // directories of CAs
	Shipped    []string // patterns of files with the CAs of the host's distribution
	CertsD     []string // directories of registries' certificates, from weak to strong
}

// ThisHost is the host on which this runs.
func ThisHost() *Host {
	h := &Host{
		Getenv: os.Getenv, Hostname: os.Hostname,
		ResolvConf: "/etc/resolv.conf", Localtime: "/etc/localtime",
		ZoneInfo: []string{"/usr/share/zoneinfo", "/usr/lib/zoneinfo", "/usr/share/lib/zoneinfo", "/etc/zoneinfo", "/var/db/timezone/zoneinfo"},
		// Where package crypto/x509 looks.
		Bundles: []string{"/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/ca-bundle.pem",
			"/etc/pki/tls/cacert.pem", "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem", "/etc/ssl/cert.pem"},
		CADirs: []string{"/etc/ssl/certs", "/etc/pki/tls/certs"},
		// Debian's and Alpine's, Fedora's, Arch's, and openSUSE's packages of Mozilla's list.
		Shipped: []string{"/usr/share/ca-certificates/mozilla/*.crt", "/usr/share/pki/ca-trust-source/*.p11-kit",
			"/usr/share/ca-certificates/trust-source/*.p11-kit", "/usr/share/pki/trust/*.p11-kit"},
	}
	if file := h.Getenv("SSL_CERT_FILE"); file != "" {
		h.Bundles = []string{file}
	}
	if dirs := h.Getenv("SSL_CERT_DIR"); dirs != "" {
		h.CADirs = filepath.SplitList(dirs)
	}
	h.CertsD = []string{"/etc/docker/certs.d"}
	if home, err := os.UserHomeDir(); err == nil {
		h.CertsD = append(h.CertsD, filepath.Join(home, ".docker", "certs.d"))
	}
	if dir := h.Getenv("DOCKER_CONFIG"); dir != "" {
		h.CertsD = append(h.CertsD, filepath.Join(dir, "certs.d"))
	}
	return h
}

// Read returns those parts of the host's settings, all if there are none named, and notes
// about what was left out.
func (h *Host) Read(parts []string) (s guestapi.Surroundings, notes []string) {
	if parts == nil {
		parts = Parts
	}
	note := func(err error) {
		if err != nil {
			notes = append(notes, err.Error())
		}
	}
	if slices.Contains(parts, Search) {
		s.Search, s.ResolverOptions = h.resolver()
	}
	if slices.Contains(parts, Zone) {
		var err error
		s.Zone, err = h.zone()
		note(err)
	}
	if slices.Contains(parts, CAs) {
		var err error
		s.CAs, err = h.cas()
		note(err)
	}
	if slices.Contains(parts, Registries) {
		var err error
		s.Registries, err = h.registries()
		note(err)
	}
	return s, notes
}

// Paths are all that Read looks at.
func (h *Host) Paths() []string {
	paths := []string{h.ResolvConf, h.Localtime}
	if path, ok := h.namedZone(); ok {
		paths = append(paths, path)
	}
	return slices.Concat(paths, h.Bundles, h.CADirs, h.CertsD)
}

// maxResolvConf bounds what is read of resolv.conf, in bytes.
const maxResolvConf = 64 << 10

func (h *Host) resolver() (search, options []string) {
	text, err := bounded.ReadFile(h.ResolvConf, maxResolvConf)
	if err != nil {
		return nil, nil
	}
	search, options, said := parseResolver(string(text))
	if said {
		return search, options
	}
	// Without a word about it, a host looks in its own domain: resolv.conf(5).
	if name, err := h.Hostname(); err == nil {
		if _, domain, ok := strings.Cut(name, "."); ok && domain != "local" && guestapi.IsSearchDomain(domain) {
			search = []string{domain}
		}
	}
	return search, options
}

// parseResolver reads where names are looked for from a resolv.conf(5), and how. The last
// line that says where counts; said is whether there is one.
func parseResolver(text string) (search, options []string, said bool) {
	for line := range strings.Lines(text) {
		fields := strings.Fields(line)
		if len(fields) < 2 {
			continue
		}
		switch fields[0] {
		case "domain":
			fields = fields[:2]
			fallthrough
		case "search":
			search, said = nil, true
			for _, domain := range fields[1:] {
				if guestapi.IsSearchDomain(domain) && len(search) < guestapi.MaxSearch {
					search = append(search, strings.TrimSuffix(domain, "."))
				}
			}
		case "options":
			for _, option := range fields[1:] {
				if guestapi.IsResolverOption(option) && !slices.Contains(options, option) {
					options = append(options, option)
				}
			}
		}
	}
	return search, options, said
}
