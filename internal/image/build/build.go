// Package build makes guest images from Debian's archive, in Go alone: without
// root, without any tool of the host, on Linux and on macOS alike.
package build

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path"
	"slices"
	"syscall"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp"

	"github.com/hyve-vm/hyve/internal/hint"
	"github.com/hyve-vm/hyve/internal/image"
	"github.com/hyve-vm/hyve/internal/image/debian"
)

// A Progress says how far a stage is. Total is 0 where it is not known.
type Progress struct {
	Stage       string
	Done, Total int64 // bytes
}

// Options say which image to build.
type Options struct {
	Store    *image.Store
	CacheDir string // for downloads; made if needed
	Arch     string // "amd64", "arm64"
	Engine   Engine // "" means DefaultEngine
	// Mirror is the base URL of a Debian mirror. Empty means $HYVE_MIRROR,
	// else what the host's apt uses, else debian.DefaultMirror.
	Mirror string
	// NoSecurity builds from a mirror without security updates.
	NoSecurity bool
	// HyveInit is the guest's static PID 1; nil means the embedded one.
	HyveInit []byte
	Progress func(Progress) // may be nil; called one at a time
	Warn     func(error)    // may be nil; told of a mirror that was passed over, and the like

	// For tests: the keys to trust, the clock, how long a mirror may take, and whether
	// its state may have expired. Zero values mean Debian's keys, time.Now, debian's
	// limits, and that it may not.
	Keys    openpgp.EntityList
	Now     func() time.Time
	Limits  debian.Limits
	Expired bool
}

// keepDownloads is how long a package stays in the cache unused.
const keepDownloads = 60 * 24 * time.Hour

// Build makes an image and commits it to the store, with the default engine as the
// default of its architecture:
//
//  1. open the archive: signed metadata, indices; which of them has a version asked for
//  2. resolve the packages
//  3. download them
//  4. unpack them, several at a time
//  5. assemble the root: files, users, modules
//  6. write kernel, initrd, root and bill of materials to a draft
//  7. commit the draft
//
// Where another process builds for the same architecture with the same engine it waits,
// and takes that one's image if it was made by the same recipe.
func Build(ctx context.Context, o Options) (*image.Image, error) {
	b, err := prepare(o)
	if err != nil {
		return nil, err
	}
	unlock, waited, err := o.Store.BuildLock(ctx, o.Arch+"-"+string(b.engine), func() { b.stage("Waiting for another build", 0, 0) })
	if err != nil {
		return nil, err
	}
	defer unlock()
	if waited {
		if img, err := find(o.Store, o.Arch, b.engine, b.recipe); err == nil && img.Manifest.Debian.NoSecurity == o.NoSecurity {
			return img, nil
		}
	}
	archive, err := b.open(ctx)
	if err != nil {
		return nil, explain(err)
	}
	defer archive.Close()
	b.date(archive.Releases)
	if err := b.resolve(archive.Index); err != nil {
		return nil, err
	}
	if b.files, err = archive.Download(ctx, append(slices.Clone(b.packages), b.partly...)); err != nil {
		return nil, explain(err)
	}
	img, err := b.assemble(ctx)
	if err != nil {
		return nil, explain(err)
	}
	// The image is good, whatever becomes of old downloads.
	if err := debian.Prune(o.CacheDir, keepDownloads, time.Now()); err != nil {
		b.warn(err)
	}
	return img, nil
}

// A builder is one build under way.
type builder struct {
	opts     Options
	engine   Engine // once the archive is open Stable or Newest
	mirrors  []debian.Mirror
	debian   image.Debian
	packages []*debian.Package
	partly   []*debian.Package // of which little is wanted
	files    []string          // of packages, then of partly
}

func prepare(o Options) (*builder, error) {
	if err := checkArch(o.Arch); err != nil {
		return nil, err
	}
	if o.HyveInit == nil {
		var err error
		if o.HyveInit, err = hyveInit(o.Arch); err != nil {
			return nil, err
		}
	}
	b := &builder{opts: o}
	var err error
	if b.engine, err = ParseEngine(string(o.Engine)); err != nil {
		return nil, err
	}
	b.mirrors, err = mirrors(o.Mirror, "/etc/apt")
	return b, err
}

// recipe is that of an image with an engine.
func (b *builder) recipe(e Engine) (string, error) {
	return recipeOf(b.opts.Arch, e, bytes.NewReader(b.opts.HyveInit))
}

// open opens as much of the archive as the engine needs, and decides which one that is.
// A version that the base release has is built without asking the next one.
func (b *builder) open(ctx context.Context) (*debian.Archive, error) {
	attempts := []Engine{b.engine}
	if !b.engine.fixed() {
		attempts = []Engine{Stable, Newest}
	}
	var err error
	for _, e := range attempts {
		var archive *debian.Archive
		archive, err = debian.Open(ctx, debian.Options{
			Releases: e.releases(), Arch: b.opts.Arch, Mirrors: b.mirrors, CacheDir: b.opts.CacheDir, NoSecurity: b.opts.NoSecurity,
			Keys: b.opts.Keys, Now: b.opts.Now, Limits: b.opts.Limits, Expired: b.opts.Expired, Warn: b.opts.Warn,
			Progress: func(p debian.Progress) { b.stage(p.Stage, p.Done, p.Total) },
		})
		if expired := (*debian.ExpiredError)(nil); errors.As(err, &expired) && e != Stable {
			err = hint.With(err, "the mirror is behind with Debian's next release; choose another with --mirror, or the stable engine with --engine stable")
		}
		if err != nil {
			return nil, err
		}
		var engine Engine
		if engine, err = b.engine.choose(archive.Index); err == nil {
			b.engine = engine
			return archive, nil
		}
		archive.Close()
	}
	return nil, err
}

// mirrors returns where to look for Debian, in order. apt is where the host's apt
// has its configuration.
func mirrors(explicit, apt string) ([]debian.Mirror, error) {
	if explicit == "" {
		explicit = os.Getenv("HYVE_MIRROR")
	}
	if explicit != "" {
		m, err := debian.ParseMirror(explicit)
		return []debian.Mirror{m}, err
	}
	if found := debian.HostMirrors(apt); len(found) > 0 {
		return found, nil
	}
	return []debian.Mirror{debian.DefaultMirror()}, nil
}

func (b *builder) stage(name string, done, total int64) {
	if b.opts.Progress != nil {
		b.opts.Progress(Progress{Stage: name, Done: done, Total: total})
	}
}

func (b *builder) warn(err error) {
	if b.opts.Warn != nil {
		b.opts.Warn(err)
	}
}

// resolve decides on the packages.
func (b *builder) resolve(x *debian.Index) error {
	var err error
	if b.packages, err = debian.Resolve(x, wanted(b.opts.Arch), never, b.engine.pins()); err != nil {
		return err
	}
	for _, name := range slices.Sorted(maps.Keys(partly)) {
		p := x.Newest(name, baseRelease)
		if p == nil {
			return fmt.Errorf("resolving packages: the archive has no %s", name)
		}
		if !slices.Contains(b.packages, p) {
			b.partly = append(b.partly, p)
		}
	}
	return nil
}

// date notes which state of the archive this is.
func (b *builder) date(releases []*debian.Release) {
	b.debian = image.Debian{Release: baseRelease, NoSecurity: b.opts.NoSecurity}
	for _, r := range releases {
		b.debian.Suites = append(b.debian.Suites, image.Suite{Name: r.Suite, Date: r.Date})
		if r.Date.After(b.debian.Date) {
			b.debian.Date = r.Date
		}
		if r.Suite == baseRelease {
			b.debian.Version = r.Version
		}
	}
}

// assemble makes the image from the downloaded packages.
func (b *builder) assemble(ctx context.Context) (*image.Image, error) {
	draft, err := b.opts.Store.Draft()
	if err != nil {
		return nil, err
	}
	defer draft.Close()
	if err := checkSpace(draft.Dir, neededSpace); err != nil {
		return nil, err
	}
	s, err := newSpool(draft.Dir)
	if err != nil {
		return nil, err
	}
	defer s.close()
	root, err := b.unpack(ctx, s)
	if err != nil {
		return nil, err
	}
	g, err := b.furnish(root)
	if err != nil {
		return nil, fmt.Errorf("assembling the root: %w", err)
	}
	if err := b.write(ctx, draft.Dir, g); err != nil {
		return nil, err
	}
	recipe, err := b.recipe(b.engine)
	if err != nil {
		return nil, err
	}
	docker := b.docker()
	draft.Aside = b.engine != DefaultEngine
	return draft.Commit(image.Manifest{
		Arch: b.opts.Arch, Kernel: g.version, Docker: docker.Version,
		Engine: string(b.engine), EngineSuite: docker.Suite,
		Debian: b.debian, Recipe: recipe, Cmdline: cmdline,
	})
}

// docker returns the package that the engine is.
func (b *builder) docker() *debian.Package {
	for _, p := range b.packages {
		if p.Name == "docker.io" {
			return p
		}
	}
	return &debian.Package{} // there is none without it
}

// unpack merges the packages' files into one tree, in the order of their names.
func (b *builder) unpack(ctx context.Context, s *spool) (*tree, error) {
	all := append(slices.Clone(b.packages), b.partly...)
	var total int64
	for _, p := range all {
		total += p.Digest.Size
	}
	b.stage("Unpacking packages", 0, total)
	tell := serial(func(done int64) { b.stage("Unpacking packages", done, total) })
	contents, err := unpack(ctx, s, all, b.files, len(b.packages), b.opts.Arch, tell)
	if err != nil {
		return nil, err
	}
	t := newTree()
	for i, u := range contents {
		for j, name := range u.names {
			if err := t.put(name, u.nodes[j]); err != nil {
				return nil, fmt.Errorf("unpacking %s: %w", all[i].Name, err)
			}
		}
	}
	return t, checkCopyrights(t, b.packages)
}

// checkCopyrights makes sure that every package's licence is in the image, as
// the licences demand.
func checkCopyrights(t *tree, packages []*debian.Package) error {
	const docs = "usr/share/doc/"
	for _, p := range packages {
		dir := docs + cmp.Or(copyrightOf[p.Name], p.Name)
		for hops := 0; hops < 8; hops++ {
			n := t.get(dir)
			if n == nil || n.typ != fs.ModeSymlink {
				break
			}
			dir = path.Join(docs, n.link)
		}
		if t.get(dir+"/copyright") == nil {
			return fmt.Errorf("unpacking %s: its copyright file is missing", p.Name)
		}
	}
	return nil
}

// explain adds the way out to errors of the local disk.
func explain(err error) error {
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		return hint.With(fmt.Errorf("building an image: %w", err), "free some space; "+spaceNeeded)
	}
	return err
}
