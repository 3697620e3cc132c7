package image

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sort"
	"strings"

	"github.com/gofrs/flock"
)

// A Draft is an image in the making: a directory that no one else sees.
type Draft struct {
	Dir string
	// Aside says that the image is not to be the default of its architecture.
	Aside bool

	store *Store
	lock  *flock.Flock
	done  bool
}

const lockSuffix = ".lock"

// Draft begins an image. Close it when done; a killed builder's draft is
// cleared away by the next Open or Draft.
func (s *Store) Draft() (*Draft, error) {
	unlock, err := s.lock()
	if err != nil {
		return nil, err
	}
	defer unlock()
	if err := s.sweep(); err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp(s.images(), ".draft-")
	if err != nil {
		return nil, fmt.Errorf("beginning an image: %w", err)
	}
	// Under the store's lock nobody sweeps between these two steps.
	l := flock.New(dir + lockSuffix)
	if ok, err := l.TryLock(); err != nil || !ok {
		_ = os.Remove(dir)
		return nil, fmt.Errorf("locking %s: %w", dir, errors.Join(err, errLocked(ok)))
	}
	return &Draft{Dir: dir, store: s, lock: l}, nil
}

func errLocked(ok bool) error {
	if ok {
		return nil
	}
	return errors.New("it is locked")
}

// sweep removes what no process holds. The caller holds the store's lock.
func (s *Store) sweep() error {
	entries, err := os.ReadDir(s.images())
	if err != nil {
		return fmt.Errorf("clearing away unfinished images: %w", err)
	}
	for _, e := range entries {
		name := e.Name()
		if !strings.HasPrefix(name, ".draft-") && !strings.HasPrefix(name, ".trash-") {
			continue
		}
		dir := filepath.Join(s.images(), strings.TrimSuffix(name, lockSuffix))
		if strings.HasPrefix(name, ".draft-") {
			l := flock.New(dir + lockSuffix)
			ok, err := l.TryLock()
			if err != nil || !ok {
				continue // its maker lives
			}
			_ = l.Close()
		}
		if err := errors.Join(os.RemoveAll(dir), remove(dir+lockSuffix)); err != nil {
			return fmt.Errorf("clearing away unfinished images: %w", err)
		}
	}
	return nil
}

func remove(file string) error {
	if err := os.Remove(file); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// Commit completes the manifest with the draft's files, writes it, and makes
// the image visible under its digest with one rename, as the new default of its
// architecture unless Aside says otherwise. An undamaged image that is already there stays as it is.
func (d *Draft) Commit(m Manifest) (*Image, error) {
	files, err := d.files()
	if err != nil {
		return nil, err
	}
	m.Format, m.Files = Format, files
	data, err := json.MarshalIndent(m, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("encoding the manifest: %w", err)
	}
	data = append(data, '\n')
	if err := writeSynced(filepath.Join(d.Dir, ManifestFile), data); err != nil {
		return nil, err
	}
	if err := syncDir(d.Dir); err != nil {
		return nil, err
	}
	sum := sha256.Sum256(data)
	digest := "sha256:" + hex.EncodeToString(sum[:])
	unlock, err := d.store.lock()
	if err != nil {
		return nil, err
	}
	defer unlock()
	img, err := d.settle(digest)
	if err != nil {
		return nil, err
	}
	if d.Aside {
		return img, nil
	}
	return img, d.store.setDefault(img.Arch, digest)
}

// settle moves the draft to its place, unless a good image is there already.
func (d *Draft) settle(digest string) (*Image, error) {
	dir := d.store.imageDir(digest)
	if _, err := os.Lstat(dir); err == nil {
		if have, err := load(dir); err == nil && have.verify(context.Background()) == nil {
			return have, nil
		}
		if err := d.store.discard(dir); err != nil {
			return nil, fmt.Errorf("replacing image %s: %w", short(digest), err)
		}
	}
	if err := os.Rename(d.Dir, dir); err != nil {
		return nil, fmt.Errorf("committing image %s: %w", short(digest), err)
	}
	d.done = true
	if err := syncDir(d.store.images()); err != nil {
		return nil, err
	}
	return load(dir)
}

// Close gives the draft up, unless it has been committed.
func (d *Draft) Close() error {
	var err error
	if !d.done {
		d.done = true
		err = os.RemoveAll(d.Dir)
	}
	err = errors.Join(err, remove(d.Dir+lockSuffix), d.lock.Close())
	if err != nil {
		return fmt.Errorf("giving up an unfinished image: %w", err)
	}
	return nil
}

// files lists, hashes and flushes the draft's files.
func (d *Draft) files() ([]File, error) {
	entries, err := os.ReadDir(d.Dir)
	if err != nil {
		return nil, fmt.Errorf("committing an image: %w", err)
	}
	var files []File
	for _, e := range entries {
		if e.Name() == ManifestFile {
			continue
		}
		if !e.Type().IsRegular() {
			return nil, fmt.Errorf("committing an image: %s is no regular file", e.Name())
		}
		path := filepath.Join(d.Dir, e.Name())
		f, err := os.Open(path)
		if err != nil {
			return nil, fmt.Errorf("committing an image: %w", err)
		}
		size, sum, err := hash(context.Background(), f)
		err = errors.Join(err, f.Sync(), f.Close(), os.Chmod(path, 0o400))
		if err != nil {
			return nil, fmt.Errorf("committing an image: %w", err)
		}
		files = append(files, File{Name: e.Name(), Size: size, SHA256: sum})
	}
	sort.Slice(files, func(i, j int) bool { return files[i].Name < files[j].Name })
	return files, nil
}

func writeSynced(path string, data []byte) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o400)
	if err != nil {
		return fmt.Errorf("writing the manifest: %w", err)
	}
	_, err = f.Write(data)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return fmt.Errorf("writing the manifest: %w", err)
	}
	return nil
}

func syncDir(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("committing an image: %w", err)
	}
	if err := errors.Join(f.Sync(), f.Close()); err != nil {
		return fmt.Errorf("committing an image: %w", err)
	}
	return nil
}
