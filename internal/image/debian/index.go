package debian

import (
	"errors"
	"fmt"
	"io"
	"sort"
)

// A Package is one binary package as an index describes it.
type Package struct {
	Name     string
	Version  string
	Arch     string // "all" or an architecture
	Source   string // source package, with its version in parentheses where that differs
	Filename string // below the archive's base
	Digest   Digest
	Suite    string // whose index it is of, for example "trixie-security"
	Release  string // that the suite belongs to, for example "trixie"

	PreDepends, Depends, Provides []Dependency
	Conflicts, Breaks             []Dependency

	base string // the archive's base URL
}

// ParsePackages parses a Packages index.
func ParsePackages(r io.Reader) ([]*Package, error) {
	c := NewControlReader(r, "Package", "Version", "Architecture", "Source", "Filename", "Size", "SHA256",
		"Depends", "Pre-Depends", "Provides", "Conflicts", "Breaks")
	var list []*Package
	for {
		para, err := c.Next()
		if errors.Is(err, io.EOF) {
			return list, nil
		}
		if err != nil {
			return nil, err
		}
		p, err := parsePackage(para)
		if err != nil {
			return nil, fmt.Errorf("package %q: %w", para.Get("Package"), err)
		}
		list = append(list, p)
	}
}

func parsePackage(para Paragraph) (*Package, error) {
	p := &Package{
		Name:     para.Get("Package"),
		Version:  para.Get("Version"),
		Arch:     para.Get("Architecture"),
		Source:   para.Get("Source"),
		Filename: para.Get("Filename"),
	}
	if !validName(p.Name) || p.Version == "" {
		return nil, errors.New("no valid name and version")
	}
	if !localPath(p.Filename) {
		return nil, fmt.Errorf("file name %q leaves the archive", p.Filename)
	}
	if p.Source == "" {
		p.Source = p.Name
	}
	var err error
	if p.Digest, err = parseDigest(para.Get("SHA256"), para.Get("Size")); err != nil {
		return nil, err
	}
	for _, f := range []struct {
		name string
		into *[]Dependency
	}{
		{"Pre-Depends", &p.PreDepends}, {"Depends", &p.Depends}, {"Provides", &p.Provides},
		{"Conflicts", &p.Conflicts}, {"Breaks", &p.Breaks},
	} {
		if *f.into, err = ParseDependencies(para.Get(f.name)); err != nil {
			return nil, fmt.Errorf("%s: %w", f.name, err)
		}
	}
	return p, nil
}

// An Index finds packages by their names and by what they provide.
type Index struct {
	byName    map[string][]*Package // newest first
	providers map[string][]*Package
}

func newIndex() *Index {
	return &Index{byName: map[string][]*Package{}, providers: map[string][]*Package{}}
}

// NewIndex returns an index of packages. Of two of one release with the same name and
// version the first counts.
func NewIndex(packages []*Package) *Index {
	x := newIndex()
	for _, p := range packages {
		x.add(p)
	}
	return x
}

func (x *Index) add(p *Package) {
	list := x.byName[p.Name]
	at := sort.Search(len(list), func(i int) bool { return CompareVersions(list[i].Version, p.Version) <= 0 })
	for ; at < len(list) && CompareVersions(list[at].Version, p.Version) == 0; at++ {
		if list[at].Release == p.Release {
			return
		}
	}
	list = append(list, nil)
	copy(list[at+1:], list[at:])
	list[at] = p
	x.byName[p.Name] = list
	for _, d := range p.Provides {
		x.providers[d[0].Name] = append(x.providers[d[0].Name], p)
	}
}

// Newest returns the newest version of a package in a release, or nil.
func (x *Index) Newest(name, release string) *Package {
	for _, p := range x.byName[name] {
		if p.Release == release {
			return p
		}
	}
	return nil
}

// candidates returns the packages that satisfy r: those of that name, newest
// first, then the providers, by name. Those of the release that their name is pinned
// to come before all others.
func (x *Index) candidates(r Relation, pins Pins) []*Package {
	var out []*Package
	for _, p := range x.byName[r.Name] {
		if r.Holds(p.Version) {
			out = append(out, p)
		}
	}
	var by []*Package
	for _, p := range x.providers[r.Name] {
		if p == x.Newest(p.Name, p.Release) && provides(p, r) {
			by = append(by, p)
		}
	}
	sort.SliceStable(by, func(i, j int) bool { return by[i].Name < by[j].Name })
	out = append(out, by...)
	sort.SliceStable(out, func(i, j int) bool { return pins.keep(out[i]) && !pins.keep(out[j]) })
	return out
}

// provides says whether p provides r; an unversioned Provides satisfies only an
// unversioned relation (Debian policy 7.5).
func provides(p *Package, r Relation) bool {
	for _, d := range p.Provides {
		if d[0].Name != r.Name {
			continue
		}
		if r.Op == "" || d[0].Op == "=" && r.Holds(d[0].Version) {
			return true
		}
	}
	return false
}

// satisfies says whether p, once installed, satisfies r.
func satisfies(p *Package, r Relation) bool {
	return p.Name == r.Name && r.Holds(p.Version) || provides(p, r)
}
