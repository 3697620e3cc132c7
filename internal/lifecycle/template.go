package lifecycle

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/hyve-vm/hyve/internal/control"
	"github.com/hyve-vm/hyve/internal/disk"
	"github.com/hyve-vm/hyve/internal/frozen"
	"github.com/hyve-vm/hyve/internal/hypervisor"
	"github.com/hyve-vm/hyve/internal/hypervisor/pick"
	"github.com/hyve-vm/hyve/internal/machine"
)

// A template is a machine that nobody uses, booted once and frozen with its engine
// idle. New machines get a copy of its disk and its frozen state, and so are thawed
// where they would boot. It is made in a data directory of its own, with
// certificates and keys that are thrown away: none that counts is ever in its
// memory.

// templateName is what a template's guest calls itself until it is a machine.
const templateName = "template"

// draftTemplate begins the names of templates in the making.
const draftTemplate = ".draft-"

// ensureTemplate returns the directory of the template for a machine, which is made
// if there is none and build is set, with these labels. Without one it is "": not every
// machine can have one.
func ensureTemplate(ctx context.Context, m *machine.Machine, backend hypervisor.Backend, labels []string, build bool, follow func(control.Status)) (string, error) {
	accel := backend.Accelerator(ctx)
	if !accel.Freezes() || len(m.EngineOptions) > 0 || len(m.EngineEnv) > 0 {
		return "", nil
	}
	dir := filepath.Join(m.Home().Templates(), templateKey(m, labels, backend.Shape(hypervisor.Config{CPUs: m.CPUs, Memory: m.Memory}, accel.Name)))
	if found := existing(dir); found != "" || !build || failedLately(dir) {
		return found, nil
	}
	err := makeTemplate(ctx, m, labels, dir, follow)
	if failed := (*StartError)(nil); errors.As(err, &failed) {
		return "", &StartError{Name: m.Name, Failure: failed.Failure, Removed: true} // as it would be
	}
	if err != nil {
		return "", fmt.Errorf("making the first machine of this shape: %w", err)
	}
	return existing(dir), nil
}

// MakeTemplate makes the template of machines of a Spec, unless there is one. It is
// an error where machines are not frozen.
func MakeTemplate(ctx context.Context, home machine.Home, options CreateOptions, follow Follower) error {
	options.Spec.Name = templateName
	m, err := design(home, options)
	if err != nil {
		return err
	}
	backend, err := pick.Find(ctx, m.Hypervisor, home.CacheDir())
	if err != nil {
		return err
	}
	dir, err := ensureTemplate(ctx, m, backend, nil, true, follow.Machine)
	if err == nil && dir == "" {
		err = fmt.Errorf("freezing a machine: %s", cmp.Or(backend.Accelerator(ctx).NoFreeze, "this one was shut down instead"))
	}
	return err
}

// existing returns dir if there is a template, which is removed if it is of no use.
func existing(dir string) string {
	d := machine.Dir(dir)
	err := frozen.Check(d.Frozen(), d.Disk())
	if err == nil {
		return dir
	}
	if unfit := (*frozen.MisfitError)(nil); errors.As(err, &unfit) {
		os.RemoveAll(dir)
	}
	return ""
}

// failedLately tells whether a machine of the shape was made and could not be frozen:
// there is an empty directory then.
func failedLately(dir string) bool {
	info, err := os.Stat(dir)
	return err == nil && time.Since(info.ModTime()) < keepDrafts
}

// templateKey names the template of machines like m. What else there is in a shape
// the supervisor looks at before it thaws anything.
func templateKey(m *machine.Machine, labels []string, hardware string) string {
	words := append([]string{m.Image, hardware, fmt.Sprint(m.Disk)}, labels...)
	sum := sha256.Sum256([]byte(strings.Join(words, " ")))
	return imagePrefix(m.Image) + hex.EncodeToString(sum[:16])
}

// imagePrefix begins the names of an image's templates.
func imagePrefix(digest string) string {
	_, digits, _ := strings.Cut(digest, ":")
	return digits[:min(len(digits), 12)] + "-"
}

// RemoveTemplates removes the templates of an image. Machines that were made of them
// have no need of them.
func RemoveTemplates(home machine.Home, digest string) error {
	dirs, err := filepath.Glob(filepath.Join(home.Templates(), imagePrefix(digest)+"*"))
	for _, dir := range dirs {
		err = errors.Join(err, os.RemoveAll(dir))
	}
	return err
}

// makeTemplate boots and freezes a machine like m, with these labels, and keeps it at dir.
func makeTemplate(ctx context.Context, m *machine.Machine, labels []string, dir string, follow func(control.Status)) error {
	templates := m.Home().Templates()
	if err := os.MkdirAll(templates, 0o700); err != nil {
		return err
	}
	sweepTemplates(templates)
	work, err := os.MkdirTemp(templates, draftTemplate)
	if err != nil {
		return err
	}
	defer os.RemoveAll(work)
	home := machine.Home(work)
	if err := errors.Join(
		home.Make(),
		os.Symlink(m.Home().ImagesDir(), home.ImagesDir()),
		os.Remove(home.CacheDir()),
		os.Symlink(m.Home().CacheDir(), home.CacheDir()),
	); err != nil {
		return err
	}
	spec := machine.Spec{Name: templateName, CPUs: m.CPUs, Memory: m.Memory, Disk: m.Disk, Image: m.Image, Hypervisor: m.Hypervisor, Labels: labels,
		FromHost: "search,zone,cas"} // what most machines have; keys are for those alone that are to have them
	t := machine.New(home, spec, m.Address)
	if err := makeFiles(ctx, t, ""); err != nil {
		return err
	}
	starting := func(s control.Status) {
		if s.State == control.Starting {
			follow(s)
		}
	}
	if _, err := start(ctx, t, true, starting); err != nil {
		return err
	}
	if err := Stop(ctx, t.Dir(), t.Name, false, starting); err != nil {
		pullPlug(context.WithoutCancel(ctx), t.Dir(), t.Name)
		return err
	}
	return keepTemplate(t.Dir(), dir)
}

// keepTemplate keeps what thawing needs of a machine, and nothing of its identity.
// The directory is moved as a whole: its disk must not change any more.
func keepTemplate(from machine.Dir, dir string) error {
	if existing(string(from)) == "" {
		return os.Mkdir(dir, 0o700) // see failedLately
	}
	entries, err := os.ReadDir(string(from))
	if err != nil {
		return err
	}
	for _, e := range entries {
		path := filepath.Join(string(from), e.Name())
		if path == from.Disk() || path == from.Frozen() {
			continue
		}
		if err := os.RemoveAll(path); err != nil {
			return err
		}
	}
	if err := os.Rename(string(from), dir); err != nil && existing(dir) == "" {
		return err // unless somebody else was as fast
	}
	return nil
}

// How long templates are kept: those that were left half-made, of which whoever made
// them held a leash on its supervisor, so nothing runs in them any more; and those of
// which no machine has been made since.
const (
	keepDrafts    = time.Hour
	keepTemplates = 30 * 24 * time.Hour
)

func sweepTemplates(templates string) {
	entries, _ := os.ReadDir(templates)
	for _, e := range entries {
		keep := keepTemplates
		if strings.HasPrefix(e.Name(), draftTemplate) {
			keep = keepDrafts
		}
		if info, err := e.Info(); err == nil && time.Since(info.ModTime()) > keep {
			os.RemoveAll(filepath.Join(templates, e.Name()))
		}
	}
}

// takeTemplate gives a draft a copy of a template's disk, and its frozen state.
func takeTemplate(ctx context.Context, draft machine.Dir, template machine.Dir) error {
	if err := disk.Copy(ctx, draft.Disk(), template.Disk()); err != nil {
		return err
	}
	now := time.Now()
	os.Chtimes(string(template), now, now) // for sweepTemplates
	return frozen.Link(draft.Frozen(), draft.Disk(), template.Frozen(), template.Disk())
}
