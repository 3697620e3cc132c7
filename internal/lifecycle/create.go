// Package lifecycle is the verbs: what happens to a machine between its creation
// and its removal. It starts the supervisor as a process of its own and speaks
// to it through control; it never does what only the owner of a VM may.
package lifecycle

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"slices"

	"github.com/hyve-vm/hyve/internal/control"
	"github.com/hyve-vm/hyve/internal/disk"
	"github.com/hyve-vm/hyve/internal/dockerenv"
	"github.com/hyve-vm/hyve/internal/image"
	"github.com/hyve-vm/hyve/internal/image/build"
	"github.com/hyve-vm/hyve/internal/machine"
	"github.com/hyve-vm/hyve/internal/pki"
)

// CreateOptions says what machine to create and how.
type CreateOptions struct {
	Spec    machine.Spec
	Mirror  string // where to build the image from, see build.Options
	NoStart bool
	Cold    bool // boot the machine, make no template
	// CommonLabels are those that most machines of this caller have. The template of a
	// machine with these alone has them, too: an engine that was thawed has to be told of
	// any other labels, which takes it time.
	CommonLabels []string
	// Contexts is where docker clients find machines.
	Contexts dockerenv.Store
}

// Follower hears how a creation goes.
type Follower struct {
	Image   func(build.Progress)
	Machine func(control.Status)
	// Warn is told what went wrong that does not keep the machine from working.
	Warn func(error)
}

// Create makes a machine and starts it:
//
//   - check: name, bounds and hypervisor, before anything is made
//   - image: the guest image is found, or built
//   - template: a frozen machine of the same shape is found, or made
//   - draft: disk and keys, in a directory that no listing shows
//   - commit: the machine's file is written and the draft gets its name
//   - start: as Start does
//   - context: docker clients can use it
//
// A machine that does not come up the first time, or whose creation ctx cuts
// short, is removed again.
func Create(ctx context.Context, home machine.Home, options CreateOptions, follow Follower) (*machine.Machine, error) {
	m, err := Plan(home, options)
	if err != nil {
		return nil, err
	}
	backend, err := findHypervisor(ctx, m.Hypervisor, home)
	if err != nil {
		return nil, err
	}
	img, err := ensureImage(ctx, home, options, follow)
	if err != nil {
		return nil, err
	}
	m.Image, m.Engine = img.Digest, cmp.Or(m.Engine, string(build.EngineOf(img)))
	var template string
	if !options.Cold {
		if template, err = ensureTemplate(ctx, m, backend, options.templateLabels(), !options.NoStart, follow); err != nil {
			return nil, err
		}
	}
	if err := makeFiles(ctx, m, template); err != nil {
		return nil, err
	}
	status, err := bringUp(ctx, m, !options.NoStart, options.Contexts, follow)
	if err == nil && template != "" && status.State == control.Running && !status.Thawed {
		os.RemoveAll(template) // the next machine makes a better one
		distrust(m, backend, status.Accelerator)
	}
	return m, err
}

// templateLabels are the labels that the machine's template has.
func (o *CreateOptions) templateLabels() []string {
	if slices.Equal(o.Spec.Labels, o.CommonLabels) {
		return o.CommonLabels
	}
	return nil
}

// bringUp starts a new machine if run is set, and lets docker clients find it. One
// that does not come up is removed.
func bringUp(ctx context.Context, m *machine.Machine, run bool, contexts dockerenv.Store, follow Follower) (status control.Status, err error) {
	if run {
		if status, err = start(ctx, m, m.Throwaway, follow.Machine); err != nil {
			return status, undo(m, err)
		}
	}
	if m.Throwaway {
		return status, nil
	}
	if err := OfferContext(contexts, m); err != nil {
		follow.Warn(err)
	}
	return status, nil
}

// Plan checks what is asked for and returns the machine that would be made. It
// changes nothing.
func Plan(home machine.Home, options CreateOptions) (*machine.Machine, error) {
	spec := options.Spec
	if err := machine.CheckName(spec.Name); err != nil {
		return nil, err
	}
	if err := home.CheckFree(spec.Name); err != nil {
		return nil, err
	}
	return design(home, options)
}

// Check returns what can be seen beforehand to be wrong with a creation: Plan's errors,
// and that there is no such image, no hypervisor, or no place for the data directory. It
// makes no machine.
func Check(ctx context.Context, home machine.Home, options CreateOptions) error {
	if err := home.CheckMake(); err != nil {
		return err
	}
	m, err := Plan(home, options)
	if err != nil {
		return err
	}
	if m.Image != "" {
		if _, err := image.Look(home.ImagesDir()).Find(m.Image, runtime.GOARCH); err != nil {
			return err
		}
	}
	_, err = findHypervisor(ctx, m.Hypervisor, home)
	return err
}

// design is Plan for a name that is good.
func design(home machine.Home, options CreateOptions) (*machine.Machine, error) {
	spec := options.Spec
	if _, err := build.ParseEngine(spec.Engine); err != nil {
		return nil, err
	}
	host, err := machine.ThisHost(string(home))
	if err != nil {
		return nil, err
	}
	spec.Defaults(host)
	if err := spec.Check(host); err != nil {
		return nil, err
	}
	return withIdentity(home, spec)
}

// withIdentity gives a new machine its identity.
func withIdentity(home machine.Home, spec machine.Spec) (*machine.Machine, error) {
	taken, err := home.Addresses()
	if err != nil {
		return nil, err
	}
	return machine.New(home, spec, machine.PickAddress(spec.Name, taken)), nil
}

// PlannedImage returns the image that a new machine of the Spec gets: the one asked
// for, or else one with the engine asked for that this version of hyve has made. The
// error wraps image.ErrNotFound where a creation would build it. A hyve without a guest
// in it uses what there is.
func PlannedImage(store *image.Store, spec machine.Spec) (*image.Image, error) {
	if spec.Image != "" {
		img, err := store.Find(spec.Image, runtime.GOARCH)
		if err == nil && spec.Engine != "" && !has(img, build.Engine(spec.Engine)) {
			err = fmt.Errorf("image %.19s has docker.io %s (%s), not %s", img.Digest, img.Manifest.Docker, build.EngineOf(img), spec.Engine)
		}
		return img, err
	}
	engine, err := build.ParseEngine(spec.Engine)
	if err != nil {
		return nil, err
	}
	img, err := build.Find(store, runtime.GOARCH, engine)
	if err == nil || errors.Is(err, image.ErrNotFound) {
		return img, err
	}
	if there, findErr := store.Find("", runtime.GOARCH); findErr == nil && has(there, engine) {
		return there, nil
	}
	return nil, err
}

// has tells whether an image is one with that engine.
func has(img *image.Image, engine build.Engine) bool {
	return build.EngineOf(img) == engine || engine.Matches(img.Manifest.Docker)
}

// ensureImage returns PlannedImage, which it builds if need be.
func ensureImage(ctx context.Context, home machine.Home, options CreateOptions, follow Follower) (*image.Image, error) {
	if err := home.Make(); err != nil {
		return nil, err
	}
	store, err := image.Open(home.ImagesDir())
	if err != nil {
		return nil, err
	}
	img, err := PlannedImage(store, options.Spec)
	if !errors.Is(err, image.ErrNotFound) || options.Spec.Image != "" {
		return img, err
	}
	return build.Build(ctx, build.Options{
		Store:    store,
		CacheDir: home.CacheDir(),
		Arch:     runtime.GOARCH,
		Engine:   build.Engine(options.Spec.Engine),
		Mirror:   options.Mirror,
		Progress: follow.Image,
		Warn:     follow.Warn,
	})
}

// makeFiles makes the machine's files, from a template's directory if that is not "", and
// then the machine.
func makeFiles(ctx context.Context, m *machine.Machine, template string) error {
	draft, err := m.Home().Draft()
	if err != nil {
		return err
	}
	defer draft.Discard()
	if template != "" {
		err = takeTemplate(ctx, draft.Dir(), machine.Dir(template))
	} else {
		err = disk.Make(draft.Dir().Disk(), m.Disk)
	}
	if err != nil {
		return err
	}
	return commitDraft(draft, m)
}

// commitDraft gives a draft that has its disk the rest, and makes it the machine.
func commitDraft(draft *machine.Draft, m *machine.Machine) error {
	if err := os.Mkdir(draft.Dir().Logs(), 0o700); err != nil {
		return fmt.Errorf("making the directory of the logs: %w", err)
	}
	ca, err := pki.OpenCA(m.Home().PKIDir())
	if err != nil {
		return err
	}
	if err := ca.Export(string(draft.Dir()), m.EngineCAs...); err != nil {
		return err
	}
	return draft.Commit(m)
}

// undo removes a machine that is not to stay, because of err, which it returns.
func undo(m *machine.Machine, err error) error {
	if failed := (*StartError)(nil); errors.As(err, &failed) {
		failed.Removed = true
	}
	// Whatever ended ctx must not keep this from its work.
	return errors.Join(err, Remove(context.Background(), m.Home(), m.Name))
}

// OfferContext lets docker clients find the machine under the name of its
// context.
func OfferContext(contexts dockerenv.Store, m *machine.Machine) error {
	return contexts.Put(m.Name, m.Dir().DockerSocket(), "hyve machine "+m.Name)
}
