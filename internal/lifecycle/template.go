package lifecycle

import (
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
	"github.com/hyve-vm/hyve/internal/trial"
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

// A shape is what machines have in common that can be made of one template.
type shape struct {
	like    *machine.Machine
	backend hypervisor.Backend
	accel   hypervisor.Verdict
	labels  []string
}

// shapeOf returns the shape of machines like m with these labels, and why there can be no
// template of them, if so.
func shapeOf(ctx context.Context, m *machine.Machine, backend hypervisor.Backend, labels []string) (shape, string) {
	accel := backend.Accelerator(ctx)
	s := shape{m, backend, accel, labels}
	if len(m.EngineOptions) > 0 || len(m.EngineEnv) > 0 {
		return s, "its engine has options of its own"
	}
	return s, accel.NoFreeze
}

// dir is where the template is, or would be. What else there is in a shape the supervisor
// looks at before it thaws anything.
func (s *shape) dir() string {
	hardware := s.backend.Shape(hypervisor.Config{CPUs: s.like.CPUs, Memory: s.like.Memory}, s.accel.Name)
	words := append([]string{s.like.Image, hardware, fmt.Sprint(s.like.Disk)}, s.labels...)
	sum := sha256.Sum256([]byte(strings.Join(words, " ")))
	return s.like.Home().Template(s.like.Image, hex.EncodeToString(sum[:16]))
}

// trial is where it is kept whether machines of the shape can be thawed.
func (s *shape) trial() string { return trial.Path(s.like, s.backend, s.accel.Name) }

// untried tells whether nobody may have a machine of the shape's template before a trial
// says that it can be thawed here.
func (s *shape) untried() bool {
	_, ok := trial.Read(s.trial())
	return s.accel.OnTrial && !ok
}

// ensureTemplate returns the directory of the template for a machine, which is made
// if there is none and build is set, with these labels. Without one it is "": not every
// machine can have one.
func ensureTemplate(ctx context.Context, m *machine.Machine, backend hypervisor.Backend, labels []string, build bool, follow Follower) (string, error) {
	s, never := shapeOf(ctx, m, backend, labels)
	if never != "" {
		return "", nil
	}
	if found := existing(s.dir()); found != "" && !s.untried() || !build || failedLately(s.dir()) || s.refusedLately() {
		return found, nil
	}
	if err := s.make(ctx, follow.Machine); err != nil {
		return "", err
	}
	if tried, ok := trial.Read(s.trial()); ok && !tried.Works {
		follow.Warn(fmt.Errorf("machines like this one boot: %s", tried.NoFreeze()))
	}
	return existing(s.dir()), nil
}

// MakeTemplate makes the template of machines of a Spec, unless there is one. It is
// an error where machines are not frozen. No earlier trial counts that said so.
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
	s, never := shapeOf(ctx, m, backend, nil)
	if never != "" {
		return fmt.Errorf("freezing a machine: %s", never)
	}
	if existing(s.dir()) != "" && trial.NoFreeze(m, backend, s.accel) == "" {
		return nil
	}
	if err := s.make(ctx, follow.Machine); err != nil {
		return err
	}
	if tried, ok := trial.Read(s.trial()); ok && !tried.Works {
		return fmt.Errorf("freezing a machine: %s", tried.NoFreeze())
	}
	if existing(s.dir()) == "" {
		return errors.New("freezing a machine: this one was shut down instead")
	}
	return nil
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

// RemoveTemplates removes the templates of an image, and what came of trying them. Machines
// that were made of them have no need of them.
func RemoveTemplates(home machine.Home, digest string) error {
	paths, err := home.OfImage(digest)
	for _, path := range paths {
		err = errors.Join(err, os.RemoveAll(path))
	}
	return err
}

// make makes the template, as makeTemplate does.
func (s *shape) make(ctx context.Context, follow func(control.Status)) error {
	err := s.makeTemplate(ctx, follow)
	if failed := (*StartError)(nil); errors.As(err, &failed) {
		return &StartError{Name: s.like.Name, Failure: failed.Failure, Removed: true} // as it would be
	}
	if err != nil {
		return fmt.Errorf("making the first machine of this shape: %w", err)
	}
	return nil
}

// makeTemplate boots and freezes a machine of the shape, and keeps it as the template. The
// first of its hardware is tried before: if that fails there is none.
func (s *shape) makeTemplate(ctx context.Context, follow func(control.Status)) error {
	templates := s.like.Home().Templates()
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
		os.Symlink(s.like.Home().ImagesDir(), home.ImagesDir()),
		os.Remove(home.CacheDir()),
		os.Symlink(s.like.Home().CacheDir(), home.CacheDir()),
	); err != nil {
		return err
	}
	t := s.machine(home, templateName)
	if err := s.grant(t); err != nil {
		return err
	}
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
	proven := s.proven()
	var noted note
	if !proven {
		noted = takeNote(ctx, t)
	}
	if err := Stop(ctx, t.Dir(), t.Name, false, starting); err != nil {
		pullPlug(context.WithoutCancel(ctx), t.Dir(), t.Name)
		return err
	}
	if existing(string(t.Dir())) == "" {
		os.Remove(s.dir())              // of the last time
		return os.Mkdir(s.dir(), 0o700) // see failedLately
	}
	if !proven {
		if works, err := s.prove(ctx, t, noted, follow); err != nil || !works {
			return err
		}
	}
	return keepTemplate(t.Dir(), s.dir())
}

// machine is one of the shape in a data directory of its own.
func (s *shape) machine(home machine.Home, name string) *machine.Machine {
	m := s.like
	spec := machine.Spec{Name: name, CPUs: m.CPUs, Memory: m.Memory, Disk: m.Disk, Image: m.Image, Hypervisor: m.Hypervisor, Labels: s.labels,
		FromHost: "search,zone,cas"} // what most machines have; keys are for those alone that are to have them
	return machine.New(home, spec, m.Address)
}

// keepTemplate keeps what thawing needs of a machine, and nothing of its identity.
// The directory is moved as a whole: its disk must not change any more.
func keepTemplate(from machine.Dir, dir string) error {
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
		if !e.IsDir() { // what came of a trial counts as long as there is the image
			continue
		}
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
