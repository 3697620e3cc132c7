// Package frozen keeps the state of a machine's frozen VM beside its disk, and
// sees to it that no disk ever runs under a state that is not its own.
//
// A state is a cache, never the truth: the disk alone is always enough. It is good
// for one disk as it was at the freeze, and for one time: Take renames it away
// before anything runs. What does not fit is dropped. The caller holds the
// machine's lock throughout.
//
// In the directory that the caller names are at most
//
//	state        what the hypervisor wrote
//	frozen.json  what it is good for; a state exists when this does
//
// and beside it, of one that is being written or being thawed, the same directory
// with ".new" or ".taken" at its end, which mean nothing to anybody later.
package frozen

import (
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/google/renameio/v2"
)

const format = 1

// manifest is frozen.json.
type manifest struct {
	Format int    `json:"format"`
	Shape  string `json:"shape"` // of the VM
	Disk   stamp  `json:"disk"`
	// Suspended says that containers run in it.
	Suspended bool   `json:"suspended"`
	Size      int64  `json:"size"` // of the state, in bytes
	Sum       uint32 `json:"sum"`  // CRC-32C of the state
}

// ErrNone says that there is no state.
var ErrNone = errors.New("there is no frozen state")

// A MisfitError says why a state cannot be used; it has been dropped.
type MisfitError struct{ Reason string }

func (e *MisfitError) Error() string { return "the frozen state does not fit: " + e.Reason }

// A Draft is a state in the making.
type Draft struct {
	Suspended bool // containers run in it

	dir  string // its final place
	file *os.File
}

func (d *Draft) path() string        { return d.dir + ".new" }
func statePath(dir string) string    { return filepath.Join(dir, "state") }
func manifestPath(dir string) string { return filepath.Join(dir, "frozen.json") }

// New begins a state; dir is where it will be.
func New(dir string) (*Draft, error) {
	d, err := begin(dir)
	if err != nil {
		return nil, err
	}
	if d.file, err = os.OpenFile(statePath(d.path()), os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600); err != nil {
		d.Discard()
		return nil, fmt.Errorf("making a frozen state: %w", err)
	}
	return d, nil
}

func begin(dir string) (*Draft, error) {
	if err := Drop(dir); err != nil {
		return nil, err
	}
	d := &Draft{dir: dir}
	if err := os.Mkdir(d.path(), 0o700); err != nil {
		return nil, fmt.Errorf("making a frozen state: %w", err)
	}
	return d, nil
}

// Link gives a machine the state of another one that is frozen, fromDisk's, for
// disk, a copy of that. The state itself is shared. The error is ErrNone or a
// *MisfitError if there is none that could be used.
func Link(dir, disk, from, fromDisk string) error {
	m, err := read(from)
	if err == nil {
		_, err = fits(from, m.Shape, fromDisk)
	}
	if err != nil {
		return fmt.Errorf("linking a frozen state: %w", err)
	}
	d, err := begin(dir)
	if err != nil {
		return err
	}
	defer d.Discard()
	d.Suspended = m.Suspended
	if err := os.Link(statePath(from), statePath(d.path())); err != nil {
		return fmt.Errorf("linking a frozen state: %w", err)
	}
	return d.commit(m.Shape, disk, m.Size, m.Sum)
}

// File is where the hypervisor writes the state.
func (d *Draft) File() *os.File { return d.file }

// Commit keeps the state, for a VM of that shape with that disk, which nobody has
// open any more.
func (d *Draft) Commit(shape, disk string) error {
	defer d.Discard()
	if err := d.file.Sync(); err != nil {
		return fmt.Errorf("keeping a frozen state: %w", err)
	}
	size, sum, err := sumOf(statePath(d.path()))
	if err != nil {
		return fmt.Errorf("keeping a frozen state: %w", err)
	}
	return d.commit(shape, disk, size, sum)
}

func (d *Draft) commit(shape, disk string, size int64, sum uint32) error {
	stamp, err := stampOf(disk)
	if err != nil {
		return fmt.Errorf("keeping a frozen state: %w", err)
	}
	data, err := json.Marshal(manifest{format, shape, stamp, d.Suspended, size, sum})
	if err != nil {
		return err
	}
	if err := errors.Join(
		renameio.WriteFile(manifestPath(d.path()), data, 0o600),
		os.Rename(d.path(), d.dir),
		syncDir(filepath.Dir(d.dir)),
	); err != nil {
		return fmt.Errorf("keeping a frozen state: %w", err)
	}
	return nil
}

// sumOf returns a file's size and checksum. It is there for disks that forget, not
// against anybody: who can write the state can write the sum.
func sumOf(path string) (size int64, sum uint32, err error) {
	file, err := os.Open(path)
	if err != nil {
		return 0, 0, err
	}
	defer file.Close()
	hash := crc32.New(crc32.MakeTable(crc32.Castagnoli))
	size, err = io.CopyBuffer(struct{ io.Writer }{hash}, struct{ io.Reader }{file}, make([]byte, 1<<20))
	return size, hash.Sum32(), err
}

// Discard removes what Commit has not kept.
func (d *Draft) Discard() {
	if d.file != nil {
		d.file.Close()
	}
	os.RemoveAll(d.path())
}

// Exists tells whether there is a state, good or not, and whether containers run in
// it.
func Exists(dir string) (exists, suspended bool) {
	m, err := read(dir)
	return err == nil, m.Suspended
}

func read(dir string) (m manifest, err error) {
	data, err := os.ReadFile(manifestPath(dir))
	if errors.Is(err, fs.ErrNotExist) {
		return m, ErrNone
	}
	if err != nil {
		return m, &MisfitError{err.Error()}
	}
	if err := json.Unmarshal(data, &m); err != nil {
		return m, &MisfitError{"its description is damaged"}
	}
	return m, nil
}

// fits reads what a state is good for. The error is ErrNone, or a *MisfitError if
// that is not a VM of that shape with that disk.
func fits(dir, shape, disk string) (m manifest, err error) {
	if m, err = read(dir); err != nil {
		return m, err
	}
	now, err := stampOf(disk)
	switch {
	case err != nil:
		return m, &MisfitError{err.Error()}
	case m.Format != format:
		return m, &MisfitError{"it is another version's"}
	case m.Shape != shape:
		return m, &MisfitError{"image, hypervisor or hardware are others now"}
	case m.Disk != now:
		return m, &MisfitError{"the disk is another or has changed since"}
	}
	return m, nil
}

// A State is one that was taken and can be thawed.
type State struct {
	File *os.File
	path string
}

// A Find is a state, if there is one, whose content is being looked at.
type Find struct {
	dir  string
	done chan struct{}
	size int64
	sum  uint32
	err  error
}

// Look begins to look at the state in dir, which takes a moment. The machine's lock
// is held from here on.
func Look(dir string) *Find {
	f := &Find{dir: dir, done: make(chan struct{})}
	go func() {
		defer close(f.done)
		f.size, f.sum, f.err = sumOf(statePath(dir))
	}()
	return f
}

// Take takes the state for a VM of that shape with that disk: from here on nobody
// else can. The error is ErrNone, a *MisfitError, or one that keeps the machine
// from running at all, because what is there could not be put out of the way.
func (f *Find) Take(shape, disk string) (*State, error) {
	if err := f.fits(shape, disk); err != nil {
		if dropped := Drop(f.dir); dropped != nil {
			return nil, dropped
		}
		return nil, err
	}
	taken := f.dir + ".taken"
	if err := errors.Join(os.RemoveAll(taken), os.Rename(f.dir, taken), syncDir(filepath.Dir(f.dir))); err != nil {
		return nil, fmt.Errorf("taking the frozen state: %w", err)
	}
	file, err := os.Open(statePath(taken))
	if err != nil {
		os.RemoveAll(taken)
		return nil, &MisfitError{err.Error()}
	}
	return &State{file, taken}, nil
}

func (f *Find) fits(shape, disk string) error {
	<-f.done
	m, err := fits(f.dir, shape, disk)
	switch {
	case err != nil:
		return err
	case f.err != nil:
		return &MisfitError{f.err.Error()}
	case f.size != m.Size || f.sum != m.Sum:
		return &MisfitError{"it is damaged"}
	}
	return nil
}

// Discard removes the state; it is thawed, or could not be.
func (s *State) Discard() {
	s.File.Close()
	os.RemoveAll(s.path)
}

// Drop removes whatever there is of states. An error means that a state may still
// be there, and the disk must not run.
func Drop(dir string) error {
	// The description first: without it the rest is nothing.
	err := os.Remove(manifestPath(dir))
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
	} else if err == nil {
		err = syncDir(dir)
	}
	if err := errors.Join(err, os.RemoveAll(dir), os.RemoveAll(dir+".new"), os.RemoveAll(dir+".taken")); err != nil {
		return fmt.Errorf("dropping the frozen state: %w", err)
	}
	return nil
}

// syncDir makes what happened in a directory outlive a crash of the host.
func syncDir(path string) error {
	dir, err := os.Open(path)
	if err != nil {
		return err
	}
	defer dir.Close()
	return dir.Sync()
}
