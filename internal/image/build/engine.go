package build

import (
	"fmt"
	"regexp"
	"strings"

	"github.com/hyve-vm/hyve/internal/hint"
	"github.com/hyve-vm/hyve/internal/image"
	"github.com/hyve-vm/hyve/internal/image/debian"
)

// An Engine says which Docker engine an image gets: Stable, Newest, or a version of
// Debian's docker.io such as "28.5", which is the former or the latter, whichever has it.
type Engine string

// The engines that there are. Everything else of an image is the base release's.
const (
	Stable Engine = "stable" // the base release's own
	Newest Engine = "newest" // that of Debian's next release
)

// DefaultEngine is what an image gets where nobody says. docs/upgrade.md has the
// reasons.
const DefaultEngine = Stable

// Debian's releases, by the code names that they keep for ever: what "testing" is
// changes, and a mirror need not know it yet.
const (
	baseRelease = "trixie"
	nextRelease = "forky"
)

// enginePackages come from the next release in an image with the newest engine. What
// they depend on stays the base release's where that has it and it is new enough, as their
// C libraries are. So does crun, whose newer versions want libraries that nothing else has.
var enginePackages = []string{"docker.io", "docker-cli", "docker-buildx", "containerd", "runc"}

var engineVersion = regexp.MustCompile(`^[0-9][A-Za-z0-9.+:~-]{0,63}$`)

// ParseEngine reads what a user asked for; nothing is DefaultEngine.
func ParseEngine(s string) (Engine, error) {
	switch e := Engine(s); {
	case s == "":
		return DefaultEngine, nil
	case e == Stable, e == Newest, engineVersion.MatchString(s):
		return e, nil
	}
	return "", hint.With(fmt.Errorf("%q is no engine", s), "give stable, newest, or a version of Debian's docker.io such as 28.5")
}

// fixed tells whether the engine is one of those that there are, and not a version.
func (e Engine) fixed() bool { return e == Stable || e == Newest }

// release is the Debian release that the engine comes from.
func (e Engine) release() string {
	if e == Stable {
		return baseRelease
	}
	return nextRelease
}

// releases are those that an image with the engine consists of, the base first.
func (e Engine) releases() []string {
	if e == Stable {
		return []string{baseRelease}
	}
	return []string{baseRelease, nextRelease}
}

// pins say which package of such an image comes from which release.
func (e Engine) pins() debian.Pins {
	pins := debian.Pins{Release: baseRelease}
	if e == Newest {
		pins.Names = map[string]string{}
		for _, name := range enginePackages {
			pins.Names[name] = nextRelease
		}
	}
	return pins
}

// Matches tells whether a version of docker.io is the one that is asked for: the same,
// or one that begins with it, as 28.5.2+dfsg4-5 does with 28.5.
func (e Engine) Matches(docker string) bool {
	rest, ok := strings.CutPrefix(docker, string(e))
	if !ok || e == "" {
		return false
	}
	return rest == "" || strings.ContainsRune(".+~-", rune(rest[0]))
}

// choose returns the engine that has the version asked for, given the index of
// releases.
func (e Engine) choose(x *debian.Index) (Engine, error) {
	if e.fixed() {
		return e, nil
	}
	var there []string
	for _, known := range []Engine{Stable, Newest} {
		p := x.Newest("docker.io", known.release())
		if p == nil {
			continue
		}
		if e.Matches(p.Version) {
			return known, nil
		}
		there = append(there, fmt.Sprintf("%s (%s, %s)", p.Version, known, p.Suite))
	}
	return "", hint.With(
		fmt.Errorf("there is no docker.io %s: the archive has %s", e, strings.Join(there, " and ")),
		"give stable, newest, or one of these versions with --engine",
	)
}

// Find returns an image of a store for arch that this hyve would make with the engine.
// The error wraps image.ErrNotFound where there is none.
func Find(store *image.Store, arch string, engine Engine) (*image.Image, error) {
	return find(store, arch, engine, func(e Engine) (string, error) { return Recipe(arch, e) })
}

func find(store *image.Store, arch string, engine Engine, recipe func(Engine) (string, error)) (*image.Image, error) {
	if engine.fixed() {
		r, err := recipe(engine)
		if err != nil {
			return nil, err
		}
		return store.FindRecipe(r, arch)
	}
	for _, known := range []Engine{Stable, Newest} {
		img, err := find(store, arch, known, recipe)
		if err == nil && engine.Matches(img.Manifest.Docker) {
			return img, nil
		}
	}
	return nil, fmt.Errorf("finding an image with docker.io %s for %s: %w", engine, arch, image.ErrNotFound)
}

// Outdated tells whether an image is one that this hyve would not make any more,
// whatever the engine. A hyve without a guest in it calls none outdated.
func Outdated(img *image.Image) bool {
	for _, e := range []Engine{Stable, Newest} {
		if r, err := Recipe(img.Arch, e); err != nil || r == img.Manifest.Recipe {
			return false
		}
	}
	return true
}

// EngineOf returns which engine an image has. Those that do not say are of a hyve that
// knew one.
func EngineOf(img *image.Image) Engine {
	if e := Engine(img.Manifest.Engine); e.fixed() {
		return e
	}
	return Stable
}
