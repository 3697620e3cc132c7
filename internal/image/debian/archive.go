package debian

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp"
	"github.com/gofrs/flock"
	"github.com/google/renameio/v2"
	"golang.org/x/sync/errgroup"

	"github.com/hyve-vm/hyve/internal/bounded"
	"github.com/hyve-vm/hyve/internal/hint"
)

// maxRelease bounds an InRelease file, in bytes; Debian's have 150 kB.
const maxRelease = 8 << 20

// A Progress says how far a stage is.
type Progress struct {
	Stage       string
	Done, Total int64 // bytes; Total is 0 while it is not known
}

// Options say which archive to open.
type Options struct {
	Releases []string // code names, for example "trixie"
	Arch     string   // Debian's name: "amd64", "arm64"
	Mirrors  []Mirror // tried in order
	CacheDir string   // made if it does not exist

	// NoSecurity does without the security archive, which must not be missing otherwise.
	NoSecurity bool
	// SecurityOnly reads nothing but the security archive.
	SecurityOnly bool

	Keys   openpgp.EntityList // nil means Keyring()
	Now    func() time.Time   // nil means time.Now
	Limits Limits
	// Expired takes a Release that is past its Valid-Until, with a warning. It is for
	// tests: the mirrors of testing that they find may lag behind, and what that date
	// guards against is an old state that is passed off as today's.
	Expired  bool
	Progress func(Progress) // may be nil; called from several goroutines, one at a time
	Warn     func(error)    // may be nil; told of a mirror that was passed over
}

// An Archive is the verified content of releases with their updates and security
// updates. It holds the cache's lock until Close.
type Archive struct {
	Releases []*Release // of each the suite itself, then its updates, then security, where they exist
	Index    *Index

	opts  Options
	fetch *fetcher
	lock  *flock.Flock
	tell  sync.Mutex
}

// Open downloads and verifies the metadata of the releases. Where another process
// uses the same cache it waits for that one.
func Open(ctx context.Context, o Options) (*Archive, error) {
	if len(o.Mirrors) == 0 {
		return nil, errors.New("opening the Debian archive: no mirror given")
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Keys == nil {
		keys, err := Keyring()
		if err != nil {
			return nil, err
		}
		o.Keys = keys
	}
	if err := os.MkdirAll(o.CacheDir, 0o700); err != nil {
		return nil, fmt.Errorf("making the download cache: %w", err)
	}
	a := &Archive{opts: o, lock: flock.New(filepath.Join(o.CacheDir, "lock"))}
	if _, err := a.lock.TryLockContext(ctx, 100*time.Millisecond); err != nil {
		return nil, fmt.Errorf("locking the download cache %s: %w", o.CacheDir, err)
	}
	a.fetch = newFetcher(o.CacheDir, o.Limits)
	if err := a.load(ctx); err != nil {
		a.Close()
		return nil, err
	}
	return a, nil
}

// Close releases the cache.
func (a *Archive) Close() error {
	a.fetch.close()
	return a.lock.Close()
}

// load reads all suites' metadata.
func (a *Archive) load(ctx context.Context) error {
	var suites []suite
	for _, release := range a.opts.Releases {
		if !a.opts.SecurityOnly {
			suites = append(suites, suite{name: release, release: release}, suite{name: release + "-updates", release: release, optional: true})
		}
		if !a.opts.NoSecurity {
			suites = append(suites, suite{name: release + "-security", release: release, security: true})
		}
	}
	a.progress(Progress{Stage: "Reading the Debian archive"})
	releases := make([]*Release, len(suites))
	indices := make([][]*Package, len(suites))
	group, ctx := errgroup.WithContext(ctx)
	for i, s := range suites {
		group.Go(func() error {
			r, err := a.release(ctx, s)
			if err != nil || r == nil {
				return err
			}
			r.Release = s.release
			releases[i] = r
			indices[i], err = a.packages(ctx, r)
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return err
	}
	a.Index = newIndex()
	for i, r := range releases {
		if r == nil {
			continue
		}
		a.Releases = append(a.Releases, r)
		for _, p := range indices[i] {
			a.Index.add(p)
		}
	}
	// Only now, with everything verified, may what was seen move forward.
	for _, r := range a.Releases {
		if err := a.remember(r); err != nil {
			return err
		}
	}
	return nil
}

// A suite is one to be read.
type suite struct {
	name     string
	release  string // that it belongs to
	security bool   // it is in the security archive
	optional bool
}

// release returns the suite's Release from the first mirror that serves a good
// one, or nil if the suite may be missing and a mirror says that it is. A security suite
// may not, nor one that was there before: whoever keeps it back keeps back its updates.
func (a *Archive) release(ctx context.Context, s suite) (*Release, error) {
	var errs []error
	missing := false
	for _, m := range a.opts.Mirrors {
		base := m.Archive
		if s.security {
			base = m.Security
		}
		if base == "" {
			missing = true
			continue
		}
		r, err := a.releaseFrom(ctx, base, s.name)
		if err == nil {
			a.warn(errs)
			return r, nil
		}
		if ctx.Err() != nil {
			return nil, err
		}
		if (s.optional || s.security) && errors.Is(err, errNotFound) {
			missing = true
			continue
		}
		errs = append(errs, err)
	}
	if !missing {
		return nil, joinLine(errs)
	}
	seen, err := a.seen(s.name)
	if err != nil {
		return nil, err
	}
	if seen.IsZero() && s.security {
		return nil, hint.With(
			joinLine(append(errs, fmt.Errorf("reading the Debian archive: the mirror has no %s, and so no security updates", s.name))),
			"choose another mirror with --mirror; hyve image build --no-security makes an image without them")
	}
	if seen.IsZero() {
		a.warn(errs)
		return nil, nil
	}
	return nil, hint.With(
		joinLine(append(errs, fmt.Errorf("reading the Debian archive: the mirror has no %s, which was there before, dated %s",
			s.name, seen.Format(time.RFC3339)))),
		"choose another mirror with --mirror; if this one is meant to be without it, remove "+a.seenPath(s.name))
}

// warn tells of mirrors that were passed over. Where all were, an error does.
func (a *Archive) warn(errs []error) {
	for _, err := range errs {
		if a.opts.Warn != nil {
			a.opts.Warn(err)
		}
	}
}

func (a *Archive) releaseFrom(ctx context.Context, base, suite string) (*Release, error) {
	where := base + "/dists/" + suite + "/InRelease"
	data, err := a.fetch.get(ctx, where, maxRelease)
	if err != nil {
		return nil, err
	}
	r, err := ParseRelease(data, suite, a.opts.Keys, a.opts.Now())
	var expired *ExpiredError
	if errors.As(err, &expired) && a.opts.Expired {
		a.warn([]error{fmt.Errorf("taking %s all the same: %w", where, err)})
		r, err = expired.Release, nil
	}
	if err != nil {
		return nil, fmt.Errorf("verifying %s: %w", where, err)
	}
	seen, err := a.seen(suite)
	if err != nil {
		return nil, err
	}
	if r.Date.Before(seen) {
		return nil, hint.With(
			fmt.Errorf("verifying %s: it is dated %s, older than the one of %s seen before: the mirror lags behind or was rolled back",
				where, r.Date.Format(time.RFC3339), seen.Format(time.RFC3339)),
			"choose another mirror with --mirror, or try again later")
	}
	r.URL = base
	return r, nil
}

// seenPath is where the date of the newest Release of a suite is kept.
func (a *Archive) seenPath(suite string) string {
	return filepath.Join(a.opts.CacheDir, "seen", suite)
}

func (a *Archive) seen(suite string) (time.Time, error) {
	data, err := bounded.ReadFile(a.seenPath(suite), bounded.MaxDocument)
	if errors.Is(err, fs.ErrNotExist) {
		return time.Time{}, nil
	}
	if err != nil {
		return time.Time{}, fmt.Errorf("reading the download cache: %w", err)
	}
	t, err := time.Parse(time.RFC3339, strings.TrimSpace(string(data)))
	if err != nil {
		return time.Time{}, fmt.Errorf("reading %s: %w", a.seenPath(suite), err)
	}
	return t, nil
}

func (a *Archive) remember(r *Release) error {
	file := a.seenPath(r.Suite)
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		return fmt.Errorf("making the download cache: %w", err)
	}
	if err := renameio.WriteFile(file, []byte(r.Date.Format(time.RFC3339)+"\n"), 0o600); err != nil {
		return fmt.Errorf("writing %s: %w", file, err)
	}
	return nil
}

// packages reads the release's index of packages in main.
func (a *Archive) packages(ctx context.Context, r *Release) ([]*Package, error) {
	name := "main/binary-" + a.opts.Arch + "/Packages.xz"
	digest, ok := r.Files[name]
	if !ok {
		return nil, fmt.Errorf("reading %s/dists/%s: it has no %s", r.URL, r.Suite, name)
	}
	dir := r.URL + "/dists/" + r.Suite + "/"
	urls := []string{dir + name}
	if r.ByHash { // a file under its own digest does not change while the mirror is updated
		urls = []string{dir + "main/binary-" + a.opts.Arch + "/by-hash/SHA256/" + digest.SHA256, dir + name}
	}
	file, err := a.fetch.blob(ctx, urls, digest, func(int64) {})
	if err != nil {
		return nil, err
	}
	in, err := os.Open(file)
	if err != nil {
		return nil, fmt.Errorf("reading the download cache: %w", err)
	}
	defer in.Close()
	text, err := decompress(".xz", in)
	if err != nil {
		return nil, fmt.Errorf("decompressing %s%s: %w", dir, name, err)
	}
	list, err := ParsePackages(text)
	if err != nil {
		return nil, fmt.Errorf("reading %s%s: %w", dir, name, err)
	}
	for _, p := range list {
		p.base, p.Suite, p.Release = r.URL, r.Suite, r.Release
	}
	return list, nil
}

// Download fetches packages into the cache and returns their files in the same
// order. Each file has been checked against the signed digest.
func (a *Archive) Download(ctx context.Context, packages []*Package) ([]string, error) {
	files := make([]string, len(packages))
	var total, done int64
	for _, p := range packages {
		total += p.Digest.Size
	}
	var mu sync.Mutex
	got := func(n int64) {
		mu.Lock()
		defer mu.Unlock()
		done += n
		a.progress(Progress{Stage: "Downloading packages", Done: done, Total: total})
	}
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(parallel)
	for i, p := range packages {
		group.Go(func() (err error) {
			files[i], err = a.fetch.blob(ctx, a.urls(p), p.Digest, got)
			return err
		})
	}
	return files, group.Wait()
}

// urls returns where a package is, on the mirror whose index named it first.
func (a *Archive) urls(p *Package) []string {
	name := (&url.URL{Path: p.Filename}).EscapedPath()
	urls := []string{p.base + "/" + name}
	for _, m := range a.opts.Mirrors {
		for _, base := range []string{m.Archive, m.Security} {
			if base != "" && base != p.base {
				urls = append(urls, base+"/"+name)
			}
		}
	}
	return urls
}

func (a *Archive) progress(p Progress) {
	if a.opts.Progress != nil {
		a.tell.Lock()
		defer a.tell.Unlock()
		a.opts.Progress(p)
	}
}

// Prune removes files from a download cache that were not used for that long.
func Prune(cacheDir string, unused time.Duration, now time.Time) error {
	for _, pattern := range []string{"sha256/*/*", "partial/*"} {
		files, err := bounded.Glob(cacheDir, pattern)
		if err != nil {
			return err
		}
		for _, f := range files {
			st, err := os.Stat(f)
			if err == nil && now.Sub(st.ModTime()) > unused {
				err = os.Remove(f)
			}
			if err != nil && !errors.Is(err, fs.ErrNotExist) {
				return fmt.Errorf("pruning the download cache: %w", err)
			}
		}
	}
	return nil
}
