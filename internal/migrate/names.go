package migrate

import (
	"fmt"
	"path"
	"regexp"
	"slices"
	"strings"
	"sync"
)

// Names come from an engine that may be anybody's. These are what docker itself allows.
// Long bounds take long to compile, which only a migration is to wait for.
var (
	objectPattern  = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9_.-]{0,254}$`) })  // of containers and volumes
	networkPattern = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9_. -]{0,254}$`) }) // of networks
	tagPattern     = sync.OnceValue(func() *regexp.Regexp {
		return regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9_.:/-]{0,383}:[\w][\w.-]{0,127}$`)
	}) // of images
	idPattern  = regexp.MustCompile(`^sha256:[0-9a-f]{64}$`) // of images
	hexPattern = regexp.MustCompile(`^[0-9a-f]{64}$`)        // of containers and networks
)

// A Filter says which images, volumes or containers are meant.
type Filter struct {
	set      bool
	none     bool
	patterns []string
}

// ParseFilter reads what a repeatable flag was given: yes, no, or names, in which * and ?
// stand for others. Nothing leaves it open.
func ParseFilter(values []string) (Filter, error) {
	f := Filter{set: len(values) > 0}
	for _, value := range values {
		switch _, err := path.Match(value, ""); {
		case value == "yes" || value == "no":
			if len(values) > 1 {
				return f, fmt.Errorf("%q does not go with other values", value)
			}
			f.none = value == "no"
		case value == "" || err != nil:
			return f, fmt.Errorf("%q is no name nor a pattern of names", value)
		default:
			f.patterns = append(f.patterns, value)
		}
	}
	return f, nil
}

// named says that the filter names some.
func (f Filter) named() bool { return len(f.patterns) > 0 }

// match tells whether one of the names is meant.
func (f Filter) match(names ...string) bool {
	if f.none {
		return false
	}
	return !f.named() || slices.ContainsFunc(f.patterns, func(pattern string) bool {
		return slices.ContainsFunc(names, func(name string) bool {
			// A slash is a letter like others: path.Match alone does not think so.
			ok, _ := path.Match(strings.ReplaceAll(pattern, "/", "\x00"), strings.ReplaceAll(name, "/", "\x00"))
			return ok
		})
	})
}

// Selection says what is to be copied.
type Selection struct{ Images, Volumes, Containers Filter }

// settle closes what is left open: everything, unless something is named; then, beyond
// that, only what it needs.
func (s Selection) settle() Selection {
	named := s.Images.named() || s.Volumes.named() || s.Containers.named()
	for _, f := range []*Filter{&s.Images, &s.Volumes, &s.Containers} {
		if !f.set {
			f.none = named
		}
	}
	return s
}
