package debian

import (
	"errors"
	"fmt"
	"maps"
	"sort"
	"strings"
)

// Resolve returns the wanted packages with all they depend on (Pre-Depends and
// Depends; no Recommends), sorted by name. A dependency that a package of never
// would satisfy counts as satisfied, and that package is left out.
//
// A package comes from the release that pins say, and from another one only where a
// chosen package needs a version that its own release does not have.
//
// The result depends on the index and the arguments only. There is no
// backtracking but for such a version: an archive's release is consistent in itself,
// and where it is not the error says which dependency failed and who has it.
func Resolve(x *Index, wanted []string, never map[string]string, pins Pins) ([]*Package, error) {
	for {
		s := &solver{index: x, never: never, pins: pins, chosen: map[string]*Package{}, because: map[string]string{}}
		out, err := s.resolve(wanted)
		moved := (*movedError)(nil)
		if !errors.As(err, &moved) {
			return out, err
		}
		// Each round moves one package more, so this ends.
		pins = pins.move(moved.to)
	}
}

// Pins say which release packages come from.
type Pins struct {
	Release string            // of most
	Names   map[string]string // a package's name -> its release, where that is another one

	moved map[string]*Package // what another package needs of another release
}

// keep says whether p is of the release that its name is pinned to.
func (p Pins) keep(pkg *Package) bool {
	if moved := p.moved[pkg.Name]; moved != nil {
		return pkg == moved
	}
	release, ok := p.Names[pkg.Name]
	if !ok {
		release = p.Release
	}
	return pkg.Release == release
}

// move returns pins by which to is the package of its name.
func (p Pins) move(to *Package) Pins {
	moved := maps.Clone(p.moved)
	if moved == nil {
		moved = map[string]*Package{}
	}
	moved[to.Name] = to
	p.moved = moved
	return p
}

// movedError says that a package has to come from another release than its pin's.
type movedError struct{ to *Package }

func (e *movedError) Error() string { return "another version is needed of " + e.to.Name }

func (s *solver) resolve(wanted []string) ([]*Package, error) {
	for _, name := range wanted {
		c := s.index.candidates(Relation{Name: name}, s.pins)
		if len(c) == 0 {
			return nil, fmt.Errorf("resolving packages: the archive has no %s", name)
		}
		s.choose(c[0], "")
	}
	for len(s.queue) > 0 {
		p := s.queue[0]
		s.queue = s.queue[1:]
		for _, deps := range [][]Dependency{p.PreDepends, p.Depends} {
			for _, d := range deps {
				if err := s.satisfy(p, d); err != nil {
					return nil, err
				}
			}
		}
	}
	out := make([]*Package, 0, len(s.chosen))
	for _, p := range s.chosen {
		out = append(out, p)
	}
	sort.Slice(out, func(i, j int) bool { return out[i].Name < out[j].Name })
	return out, conflicts(out)
}

type solver struct {
	index   *Index
	never   map[string]string
	pins    Pins
	chosen  map[string]*Package
	because map[string]string // package -> the one that needed it first
	queue   []*Package
}

func (s *solver) choose(p *Package, because string) {
	if s.chosen[p.Name] == nil {
		s.chosen[p.Name] = p
		s.because[p.Name] = because
		s.queue = append(s.queue, p)
	}
}

// satisfy makes sure that one of d's alternatives is chosen.
func (s *solver) satisfy(p *Package, d Dependency) error {
	for _, r := range d {
		if s.met(r) {
			return nil
		}
	}
	clash := ""
	var move *Package
	for _, r := range d {
		for _, c := range s.index.candidates(r, s.pins) {
			if _, no := s.never[c.Name]; no {
				return nil
			}
			if have := s.chosen[c.Name]; have != nil && have != c {
				if move == nil && s.pins.moved[c.Name] == nil && have.Release != c.Release && CompareVersions(c.Version, have.Version) > 0 {
					move = c
				}
				clash = fmt.Sprintf(", but %s %s is already chosen", have.Name, have.Version)
				continue
			}
			s.choose(c, p.Name)
			return nil
		}
		if _, no := s.never[r.Name]; no { // not even in the archive
			return nil
		}
	}
	if move != nil {
		return &movedError{move}
	}
	if clash == "" {
		clash = ", which the archive does not have"
	}
	return fmt.Errorf("resolving packages: %s needs %s%s", s.chain(p.Name), d, clash)
}

// met says whether a chosen package satisfies r.
func (s *solver) met(r Relation) bool {
	if p := s.chosen[r.Name]; p != nil && r.Holds(p.Version) {
		return true
	}
	for _, p := range s.index.providers[r.Name] {
		if s.chosen[p.Name] == p && provides(p, r) {
			return true
		}
	}
	return false
}

// chain says why a package is there: "docker.io, for it containerd, for it runc".
func (s *solver) chain(name string) string {
	var names []string
	for n := name; n != "" && len(names) < 10; n = s.because[n] {
		names = append([]string{n}, names...)
	}
	return strings.Join(names, ", for it ")
}

// conflicts reports the first pair of packages that exclude each other.
func conflicts(packages []*Package) error {
	for _, p := range packages {
		for _, deps := range [][]Dependency{p.Conflicts, p.Breaks} {
			for _, d := range deps {
				for _, q := range packages {
					if q != p && satisfies(q, d[0]) {
						return fmt.Errorf("resolving packages: %s conflicts with %s", p.Name, d)
					}
				}
			}
		}
	}
	return nil
}
