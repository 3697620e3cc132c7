package image

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/gofrs/flock"
	"github.com/google/renameio/v2"

	"github.com/hyve-vm/hyve/internal/bounded"
	"github.com/hyve-vm/hyve/internal/hint"
)

// ErrNotFound is the cause where no image has the reference asked for.
var ErrNotFound = errors.New("no such image")

// MinPrefix is the shortest abbreviation of a digest, in hex digits.
const MinPrefix = 4

// An unmadeError says why there is no place for images.
type unmadeError struct{ error }

func (e *unmadeError) Unwrap() error { return e.error }

// Hint says how to go on.
func (*unmadeError) Hint() string { return "set HYVE_HOME to a directory that you may write" }

// A Store is a directory of images. Any number of processes may use it at once.
type Store struct {
	dir string
}

// Open returns the store in dir, which it makes if needed, and clears away what
// killed builders left.
func Open(dir string) (*Store, error) {
	s := &Store{dir: dir}
	if err := os.MkdirAll(s.images(), 0o700); err != nil {
		return nil, &unmadeError{fmt.Errorf("making the image store: %w", err)}
	}
	unlock, err := s.lock()
	if err != nil {
		return nil, err
	}
	defer unlock()
	return s, s.sweep()
}

// Look returns the store in dir, which need not exist, for reading: nothing is changed.
func Look(dir string) *Store { return &Store{dir: dir} }

// Dir is the store's directory.
func (s *Store) Dir() string { return s.dir }

func (s *Store) images() string { return filepath.Join(s.dir, "images") }

func (s *Store) imageDir(digest string) string {
	return filepath.Join(s.images(), strings.Replace(digest, ":", "-", 1))
}

func (s *Store) defaultFile(arch string) string { return filepath.Join(s.dir, "default-"+arch) }

// lock serialises changes of the store's entries; it is held briefly.
func (s *Store) lock() (unlock func(), err error) {
	l := flock.New(filepath.Join(s.dir, "lock"))
	if err := l.Lock(); err != nil {
		return nil, fmt.Errorf("locking the image store %s: %w", s.dir, err)
	}
	return func() { _ = l.Close() }, nil
}

// An Entry is an image of a listing, or why it cannot be used.
type Entry struct {
	Digest string
	Image  *Image // nil if Err is set
	Err    error
}

// List returns all images, newest first, and then those that are damaged.
func (s *Store) List() ([]Entry, error) {
	dirs, err := os.ReadDir(s.images())
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("listing images: %w", err)
	}
	var list []Entry
	for _, dir := range dirs {
		if digest, ok := digestOf(dir.Name()); ok {
			img, err := load(s.imageDir(digest))
			list = append(list, Entry{digest, img, err})
		}
	}
	slices.SortFunc(list, func(a, b Entry) int {
		return cmp.Or(b.created().Compare(a.created()), cmp.Compare(a.Digest, b.Digest))
	})
	return list, nil
}

// created is the image's time, that of the zero year for a damaged one.
func (e Entry) created() time.Time {
	if e.Image == nil {
		return time.Time{}
	}
	return e.Image.Created
}

// Find returns an image by reference: "" or "default" for the current image of
// arch, else a digest or the beginning of one, of at least MinPrefix hex
// digits, with or without "sha256:". The error wraps ErrNotFound where there is
// none.
func (s *Store) Find(ref, arch string) (*Image, error) {
	if ref == "" || ref == "default" {
		return s.findDefault(arch)
	}
	entry, err := s.Resolve(ref)
	if err != nil {
		return nil, err
	}
	if entry.Err != nil {
		return nil, entry.Err
	}
	if entry.Image.Arch != arch {
		return nil, fmt.Errorf("finding image %q: it is for %s, not %s", ref, entry.Image.Arch, arch)
	}
	return entry.Image, nil
}

// Resolve returns an image by its digest or the beginning of one, as Find does, be it
// of whatever architecture or damaged.
func (s *Store) Resolve(ref string) (Entry, error) {
	prefix := strings.TrimPrefix(ref, "sha256:")
	if len(prefix) < MinPrefix || len(prefix) > 64 || !isHex(prefix) {
		return Entry{}, hint.With(
			fmt.Errorf("finding image %q: not a digest or at least %d digits of one", ref, MinPrefix),
			"`hyve image ls` lists the images",
		)
	}
	found, err := bounded.Glob(s.images(), "sha256-"+prefix+"*")
	if err != nil {
		return Entry{}, fmt.Errorf("finding image %q: %w", ref, err)
	}
	found = slices.DeleteFunc(found, func(dir string) bool {
		_, ok := digestOf(filepath.Base(dir))
		return !ok
	})
	switch len(found) {
	case 0:
		return Entry{}, hint.With(fmt.Errorf("finding image %q: %w", ref, ErrNotFound), "`hyve image ls` lists the images")
	case 1:
	default:
		return Entry{}, hint.With(
			fmt.Errorf("finding image %q: %d images begin with that", ref, len(found)),
			"give more digits",
		)
	}
	digest, _ := digestOf(filepath.Base(found[0]))
	img, err := load(found[0])
	return Entry{digest, img, err}, nil
}

func (s *Store) findDefault(arch string) (*Image, error) {
	digest, err := s.defaultDigest(arch)
	if err != nil {
		return nil, err
	}
	dir := s.imageDir(digest)
	if _, err := os.Stat(dir); digest == "" || errors.Is(err, fs.ErrNotExist) {
		return nil, noImage(arch)
	}
	return load(dir)
}

// FindRecipe returns an image of arch that was made by a recipe: the current one or
// else, where another version of hyve has made that, the newest. The error wraps
// ErrNotFound where there is none.
func (s *Store) FindRecipe(recipe, arch string) (*Image, error) {
	if img, err := s.findDefault(arch); err == nil && img.Manifest.Recipe == recipe {
		return img, nil
	}
	list, err := s.List()
	if err != nil {
		return nil, err
	}
	for _, e := range list {
		if e.Err == nil && e.Image.Arch == arch && e.Image.Manifest.Recipe == recipe {
			return e.Image, nil
		}
	}
	return nil, noImage(arch)
}

func noImage(arch string) error {
	return hint.With(fmt.Errorf("finding an image for %s: %w", arch, ErrNotFound), "run `hyve image build` to make one")
}

// defaultDigest returns the current image's digest, or "".
func (s *Store) defaultDigest(arch string) (string, error) {
	file := s.defaultFile(arch)
	data, err := bounded.ReadFile(file, bounded.MaxDocument)
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("finding the default image: %w", err)
	}
	digest := strings.TrimSpace(string(data))
	if !isDigest(digest) {
		return "", hint.With(fmt.Errorf("reading %s: not a digest", file), "run `hyve image build` to make an image")
	}
	return digest, nil
}

func (s *Store) setDefault(arch, digest string) error {
	if err := renameio.WriteFile(s.defaultFile(arch), []byte(digest+"\n"), 0o600); err != nil {
		return fmt.Errorf("naming the default image: %w", err)
	}
	return nil
}

// Remove deletes an image, be it damaged. If it was the current one of its
// architecture, the newest that remains takes its place. The caller makes sure that no
// machine needs it.
func (s *Store) Remove(digest string) error {
	unlock, err := s.lock()
	if err != nil {
		return err
	}
	defer unlock()
	if err := s.discard(s.imageDir(digest)); err != nil {
		return fmt.Errorf("removing image %s: %w", short(digest), err)
	}
	files, err := bounded.Glob(s.dir, filepath.Base(s.defaultFile("*")))
	if err != nil {
		return fmt.Errorf("forgetting the default image: %w", err)
	}
	for _, file := range files {
		arch := strings.TrimPrefix(file, s.defaultFile(""))
		if current, err := s.defaultDigest(arch); err == nil && current != digest {
			continue
		}
		if err := s.replaceDefault(arch); err != nil {
			return err
		}
	}
	return nil
}

// replaceDefault makes the newest image of an architecture the current one, if there
// is one.
func (s *Store) replaceDefault(arch string) error {
	list, err := s.List()
	if err != nil {
		return err
	}
	for _, e := range list {
		if e.Err == nil && e.Image.Arch == arch {
			return s.setDefault(arch, e.Digest)
		}
	}
	if err := os.Remove(s.defaultFile(arch)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("forgetting the default image: %w", err)
	}
	return nil
}

// discard makes an entry invisible with one rename and then deletes it.
func (s *Store) discard(dir string) error {
	trash, err := os.MkdirTemp(s.images(), ".trash-")
	if err != nil {
		return err
	}
	if err := os.Rename(dir, filepath.Join(trash, "image")); err != nil {
		_ = os.Remove(trash)
		return err
	}
	return os.RemoveAll(trash)
}

// BuildLock makes builders of one kind, an architecture for example, take turns. waited says that
// another one was at work; waiting, if not nil, is called before the wait.
func (s *Store) BuildLock(ctx context.Context, kind string, waiting func()) (unlock func(), waited bool, err error) {
	l := flock.New(filepath.Join(s.dir, "build-"+kind+".lock"))
	ok, err := l.TryLock()
	if err == nil && !ok {
		waited = true
		if waiting != nil {
			waiting()
		}
		_, err = l.TryLockContext(ctx, 200*time.Millisecond)
	}
	if err != nil {
		return nil, waited, fmt.Errorf("waiting for another build of an image: %w", err)
	}
	return func() { _ = l.Close() }, waited, nil
}
