package debian

import (
	"fmt"
	"strings"
)

// A Relation is one alternative of a dependency: a package name and, unless Op
// is empty, a condition on its version.
type Relation struct {
	Name    string
	Op      string // "", "<<", "<=", "=", ">=", ">>"
	Version string
}

// String returns the relation as it is written in a control file.
func (r Relation) String() string {
	if r.Op == "" {
		return r.Name
	}
	return fmt.Sprintf("%s (%s %s)", r.Name, r.Op, r.Version)
}

// Holds says whether a version satisfies the relation's condition.
func (r Relation) Holds(version string) bool {
	c := CompareVersions(version, r.Version)
	switch r.Op {
	case "<<":
		return c < 0
	case "<=":
		return c <= 0
	case "=":
		return c == 0
	case ">=":
		return c >= 0
	case ">>":
		return c > 0
	}
	return true
}

// A Dependency is a list of alternatives, in order of preference.
type Dependency []Relation

// String returns the dependency as it is written in a control file.
func (d Dependency) String() string {
	parts := make([]string, len(d))
	for i, r := range d {
		parts[i] = r.String()
	}
	return strings.Join(parts, " | ")
}

// ParseDependencies parses a relationship field: alternatives separated by "|"
// within dependencies separated by ",". Architecture qualifiers (":any") are
// dropped, since an image has one architecture.
func ParseDependencies(field string) ([]Dependency, error) {
	var deps []Dependency
	for part := range strings.SplitSeq(field, ",") {
		if strings.TrimSpace(part) == "" {
			continue
		}
		var d Dependency
		for alt := range strings.SplitSeq(part, "|") {
			r, err := parseRelation(alt)
			if err != nil {
				return nil, err
			}
			d = append(d, r)
		}
		deps = append(deps, d)
	}
	return deps, nil
}

func parseRelation(s string) (Relation, error) {
	s = strings.TrimSpace(s)
	name, cond, hasCond := strings.Cut(s, "(")
	name, _, _ = strings.Cut(strings.TrimSpace(name), ":")
	if !validName(name) {
		return Relation{}, fmt.Errorf("bad package name in relation %q", s)
	}
	if !hasCond {
		return Relation{Name: name}, nil
	}
	cond, rest, ok := strings.Cut(cond, ")")
	if !ok || strings.TrimSpace(rest) != "" {
		return Relation{}, fmt.Errorf("bad version condition in relation %q", s)
	}
	cond = strings.TrimSpace(cond)
	n := 0
	for n < len(cond) && strings.IndexByte("<>=", cond[n]) >= 0 {
		n++
	}
	op, version := cond[:n], strings.TrimSpace(cond[n:])
	switch op {
	case "<": // deb-control(5): obsolete spellings of <= and >=
		op = "<="
	case ">":
		op = ">="
	case "<<", "<=", "=", ">=", ">>":
	default:
		return Relation{}, fmt.Errorf("bad operator in relation %q", s)
	}
	if version == "" || strings.ContainsAny(version, " \t\n") {
		return Relation{}, fmt.Errorf("bad version in relation %q", s)
	}
	return Relation{Name: name, Op: op, Version: version}, nil
}

// validName says whether s is a package name (Debian policy 5.6.1; upper case
// is let through, since virtual packages use it).
func validName(s string) bool {
	if s == "" {
		return false
	}
	for i := 0; i < len(s); i++ {
		c := s[i]
		switch {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', isDigit(c):
		case i > 0 && (c == '+' || c == '-' || c == '.' || c == '_'):
		default:
			return false
		}
	}
	return true
}
