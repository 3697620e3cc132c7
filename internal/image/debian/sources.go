package debian

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/url"
	"path/filepath"
	"sort"
	"strings"

	"github.com/hyve-vm/hyve/internal/bounded"
	"github.com/hyve-vm/hyve/internal/hint"
)

// A Mirror is one place that serves an archive.
type Mirror struct {
	Archive  string // base URL of the main archive, which holds dists/ and pool/
	Security string // base URL of the security archive; empty if there is none
}

// DefaultMirror is Debian's own, a content network.
func DefaultMirror() Mirror {
	return Mirror{Archive: "http://deb.debian.org/debian", Security: "http://deb.debian.org/debian-security"}
}

// ParseMirror returns the mirror that a user named: the URL of a directory that
// holds dists/ and pool/. Its security archive is looked for beside it, under
// the same name with "-security".
func ParseMirror(s string) (Mirror, error) {
	base, ok := mirrorURL(s)
	if !ok {
		return Mirror{}, hint.With(fmt.Errorf("reading mirror %q: not an http or https URL", s),
			"give it like "+DefaultMirror().Archive)
	}
	return Mirror{Archive: base, Security: guessSecurity(base)}, nil
}

// guessSecurity returns where a mirror's security archive would be.
func guessSecurity(base string) string {
	if _, rest, _ := strings.Cut(base, "://"); !strings.Contains(rest, "/") {
		return base + "/debian-security" // a mirror at a host's root
	}
	return base + "-security"
}

// mirrorURL returns s without its trailing slashes, if it is an http(s) URL.
func mirrorURL(s string) (string, bool) {
	u, err := url.Parse(s)
	if err != nil || (u.Scheme != "http" && u.Scheme != "https") || u.Host == "" {
		return "", false
	}
	if u.RawQuery != "" || u.Fragment != "" {
		return "", false
	}
	return strings.TrimRight(s, "/"), true
}

// HostMirrors returns the mirrors of Debian that this computer's apt uses, read
// below etc (normally "/etc/apt"), best first. It is empty where apt is not
// configured, or for something other than Debian. Files that cannot be read or
// parsed are skipped: apt would complain about them, and the signature decides
// in the end.
func HostMirrors(etc string) []Mirror {
	var sources []aptSource
	files := []string{filepath.Join(etc, "sources.list")}
	for _, pattern := range []string{"*.list", "*.sources"} {
		more, _ := filepath.Glob(filepath.Join(etc, "sources.list.d", pattern))
		sort.Strings(more)
		files = append(files, more...)
	}
	for _, file := range files {
		data, err := bounded.ReadFile(file, bounded.MaxDocument)
		if err != nil {
			continue
		}
		if strings.HasSuffix(file, ".sources") {
			sources = append(sources, parseDeb822Sources(data)...)
		} else {
			sources = append(sources, parseOneLineSources(data)...)
		}
	}
	return mirrorsOf(sources)
}

// An aptSource is one URI with one suite of apt's configuration.
type aptSource struct {
	uri        string
	suite      string
	components []string
	signedBy   string
}

// mirrorsOf pairs archive and security URIs in the order in which they stand.
func mirrorsOf(sources []aptSource) []Mirror {
	var archives, securities []string
	add := func(list []string, s string) []string {
		for _, have := range list {
			if have == s {
				return list
			}
		}
		return append(list, s)
	}
	for _, s := range sources {
		base, ok := mirrorURL(s.uri)
		if !ok || !s.isDebian() {
			continue
		}
		if s.isSecurity() {
			securities = add(securities, base)
		} else {
			archives = add(archives, base)
		}
	}
	var mirrors []Mirror
	for i, a := range archives {
		m := Mirror{Archive: a, Security: guessSecurity(a)}
		if len(securities) > 0 {
			m.Security = securities[min(i, len(securities)-1)]
		}
		mirrors = append(mirrors, m)
	}
	return mirrors
}

// debianSuites are the names under which a Debian host may follow a release.
var debianSuites = map[string]bool{
	"buster": true, "bullseye": true, "bookworm": true, "trixie": true, "forky": true, "duke": true, "sid": true,
	"oldoldstable": true, "oldstable": true, "stable": true, "testing": true, "unstable": true,
}

func (s aptSource) isSecurity() bool {
	return strings.HasSuffix(s.suite, "-security") || strings.HasSuffix(s.suite, "/updates")
}

// isDebian tells Debian's own suites from third parties' that borrow its
// release names.
func (s aptSource) isDebian() bool {
	name := s.suite
	for _, suffix := range []string{"-security", "/updates", "-updates"} {
		name = strings.TrimSuffix(name, suffix)
	}
	if !debianSuites[name] {
		return false
	}
	if s.signedBy != "" && !strings.Contains(s.signedBy, "debian-archive") {
		return false
	}
	for _, c := range s.components {
		if c == "main" {
			return true
		}
	}
	return false
}

// parseOneLineSources parses sources.list(5)'s one-line style:
// "deb [ options ] URI SUITE COMPONENT…".
func parseOneLineSources(data []byte) []aptSource {
	var out []aptSource
	lines := bufio.NewScanner(bytes.NewReader(data))
	for lines.Scan() {
		line, _, _ := strings.Cut(lines.Text(), "#")
		rest, ok := strings.CutPrefix(strings.TrimSpace(line), "deb")
		if !ok || rest == "" || !strings.ContainsRune(" \t[", rune(rest[0])) {
			continue
		}
		var s aptSource
		rest = strings.TrimSpace(rest)
		if options, found := strings.CutPrefix(rest, "["); found {
			options, rest, found = strings.Cut(options, "]")
			if !found {
				continue
			}
			for _, o := range strings.Fields(options) {
				if v, ok := strings.CutPrefix(strings.ToLower(o), "signed-by="); ok {
					s.signedBy = v
				}
			}
		}
		f := strings.Fields(rest)
		if len(f) < 3 {
			continue
		}
		s.uri, s.suite, s.components = f[0], f[1], f[2:]
		out = append(out, s)
	}
	return out
}

// parseDeb822Sources parses sources.list(5)'s DEB822 style.
func parseDeb822Sources(data []byte) []aptSource {
	var out []aptSource
	r := NewControlReader(bytes.NewReader(data))
	for {
		p, err := r.Next()
		if errors.Is(err, io.EOF) || err != nil {
			return out
		}
		if strings.EqualFold(p.Get("Enabled"), "no") || !contains(strings.Fields(p.Get("Types")), "deb") {
			continue
		}
		for _, uri := range strings.Fields(p.Get("URIs")) {
			for _, suite := range strings.Fields(p.Get("Suites")) {
				out = append(out, aptSource{
					uri: uri, suite: suite,
					components: strings.Fields(p.Get("Components")),
					signedBy:   signedBy(p.Get("Signed-By")),
				})
			}
		}
	}
}

// signedBy returns the file of a Signed-By field; a key that stands in the
// field itself says nothing about whose it is.
func signedBy(v string) string {
	if strings.Contains(v, "BEGIN PGP") {
		return ""
	}
	return v
}

func contains(list []string, s string) bool {
	for _, v := range list {
		if v == s {
			return true
		}
	}
	return false
}
