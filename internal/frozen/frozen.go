// Package frozen keeps the state of a machine's frozen VM beside its disk, and
// sees to it that no disk ever runs under a state that is not its own.
//
// A state is a cache, never the truth: the disk alone is always enough. It is good
// for one disk as it was at the freeze, and for one time: Take renames it away
// before anything runs. If nothing runs after all it is put back: by PutBack, or, where
// the process was killed before that, by whoever looks next. What does not fit is dropped.
// The caller holds the machine's lock throughout.
//
// In the directory that the caller names are at most
//
//	devices      what the hypervisor wrote of processors and devices
//	memory       and of the guest's memory, sparse
//	frozen.json  what they are good for; a state exists when this does
//
// and beside it, of one that is being written, the same directory with ".new" at its
// end, which means nothing to anybody later; of one that is being thawed with ".taken", in
// which the file "taken" says since which start of the host.
package frozen

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/google/renameio/v2"

	"github.com/hyve-vm/hyve/internal/bounded"
	"github.com/hyve-vm/hyve/internal/sparse"
)

const format = 2

// manifest is frozen.json.
type manifest struct {
	Format int    `json:"format"`
	Shape  string `json:"shape"` // of the VM
	Disk   stamp  `json:"disk"`
	// Suspended says that containers run in it.
	Suspended bool `json:"suspended"`
	// Accelerator is what ran the VM. States that do not say were made in emulation.
	Accelerator string `json:"accelerator,omitempty"`
	// Processor is which one its guest saw, if it was not emulated.
	Processor string  `json:"processor,omitempty"`
	Content   content `json:"content"`
}

// content is the size and the checksum of each file of a state.
type content struct {
	Devices summary `json:"devices"`
	Memory  summary `json:"memory"`
}

type summary struct {
	Size int64  `json:"size"` // in bytes
	Sum  uint32 `json:"sum"`
}

// ErrNone says that there is no state.
var ErrNone = errors.New("there is no frozen state")

// A MisfitError says why a state cannot be used; it has been dropped.
type MisfitError struct{ Reason string }

func (e *MisfitError) Error() string { return "the frozen state does not fit: " + e.Reason }

// A Draft is a state in the making.
type Draft struct {
	Suspended   bool   // containers run in it
	Accelerator string // what ran the VM
	Processor   string // which its guest saw; empty if that was emulated

	dir    string         // its final place
	memory *sparse.Writer // of New
}

func (d *Draft) path() string        { return d.dir + ".new" }
func devicesPath(dir string) string  { return filepath.Join(dir, "devices") }
func memoryPath(dir string) string   { return filepath.Join(dir, "memory") }
func manifestPath(dir string) string { return filepath.Join(dir, "frozen.json") }
func takenDir(dir string) string     { return dir + ".taken" }
func markPath(dir string) string     { return filepath.Join(dir, "taken") }

// New begins the state of a VM with so many bytes of memory; dir is where it will be.
func New(dir string, memory int64) (*Draft, error) {
	d, err := begin(dir)
	if err != nil {
		return nil, err
	}
	if d.memory, err = sparse.Create(memoryPath(d.path()), memory); err != nil {
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

// Devices is the path of the file, and Memory the other one, that the hypervisor is to
// write.
func (d *Draft) Devices() string        { return devicesPath(d.path()) }
func (d *Draft) Memory() *sparse.Writer { return d.memory }

// Link gives a machine the state of another one that is frozen, fromDisk's, for
// disk, a copy of that. The state itself is shared. The error is ErrNone or a
// *MisfitError if there is none that could be used.
func Link(dir, disk, from, fromDisk string) error {
	if err := restore(from); err != nil {
		return err
	}
	m, err := check(from, fromDisk)
	if err != nil {
		return fmt.Errorf("linking a frozen state: %w", err)
	}
	d, err := begin(dir)
	if err != nil {
		return err
	}
	defer d.Discard()
	d.Suspended, d.Accelerator, d.Processor = m.Suspended, m.Accelerator, m.Processor
	if err := errors.Join(os.Link(devicesPath(from), d.Devices()), os.Link(memoryPath(from), memoryPath(d.path()))); err != nil {
		return fmt.Errorf("linking a frozen state: %w", err)
	}
	return d.commit(m.Shape, disk, m.Content)
}

// Check tells whether the state in dir could be linked, given the disk that it is of.
// The error is ErrNone or a *MisfitError.
func Check(dir, disk string) error {
	_, err := check(dir, disk)
	return err
}

func check(dir, disk string) (manifest, error) {
	m, err := read(dir)
	if err != nil {
		return m, err
	}
	return fits(dir, m.Shape, disk)
}

// Commit keeps the state, for a VM of that shape with that disk, which nobody has
// open any more. It is on the host's disk when the host sees fit: nobody waits for a
// gigabyte to be written, and what a crash of the host cuts off has another sum.
func (d *Draft) Commit(shape, disk string) error {
	if err := d.memory.Close(); err != nil {
		return fmt.Errorf("keeping a frozen state: %w", err)
	}
	size, sum, err := sparse.Sum(d.Devices())
	if err != nil {
		return fmt.Errorf("keeping a frozen state: %w", err)
	}
	return d.commit(shape, disk, content{
		Devices: summary{size, sum},
		Memory:  summary{d.memory.Size(), d.memory.Sum()},
	})
}

func (d *Draft) commit(shape, disk string, content content) error {
	file, err := os.Open(disk)
	if err != nil {
		return fmt.Errorf("keeping a frozen state: %w", err)
	}
	defer file.Close()
	stamp, err := settle(file, unwritten)
	if err != nil {
		return fmt.Errorf("keeping a frozen state: %w", err)
	}
	data, err := json.Marshal(manifest{format, shape, stamp, d.Suspended, d.Accelerator, d.Processor, content})
	if err != nil {
		return err
	}
	err = renameio.WriteFile(manifestPath(d.path()), data, 0o600)
	if err == nil {
		err = os.Rename(d.path(), d.dir)
	}
	if err == nil {
		err = syncDir(filepath.Dir(d.dir))
	}
	if err != nil {
		return fmt.Errorf("keeping a frozen state: %w", err)
	}
	return nil
}

func sumUp(dir string) (c content, err error) {
	if c.Devices.Size, c.Devices.Sum, err = sparse.Sum(devicesPath(dir)); err != nil {
		return c, err
	}
	c.Memory.Size, c.Memory.Sum, err = sparse.Sum(memoryPath(dir))
	return c, err
}

// Discard removes what Commit has not kept, and closes the rest.
func (d *Draft) Discard() {
	if d.memory != nil {
		d.memory.Close()
	}
	os.RemoveAll(d.path())
}

// Exists tells whether there is a state, good or not, and whether containers run in
// it.
func Exists(dir string) (exists, suspended bool) {
	m, err := read(whereabouts(dir))
	return err == nil, m.Suspended
}

// Origin is what ran the VM of a state, good or not, and on which processor: empty what the
// state does not say.
func Origin(dir string) (accelerator, processor string) {
	m, _ := read(whereabouts(dir))
	return m.Accelerator, m.Processor
}

// whereabouts is where the state of dir is: elsewhere if it was taken by a process that
// was killed before anything ran. After a crash of the host nobody knows that: what was
// written to the disk may be there, and the time at which it was written lost.
func whereabouts(dir string) string {
	taken := takenDir(dir)
	if _, err := os.Lstat(dir); !errors.Is(err, fs.ErrNotExist) {
		return dir
	}
	mark, err := bounded.ReadFile(markPath(taken), bounded.MaxDocument)
	if now := hostStart(); err != nil || now == "" || string(mark) != now {
		return dir
	}
	return taken
}

// restore puts the state of dir back where it was taken by a process that was killed
// before anything ran. If its guest ran it has written to the disk, which the state then
// does not fit, or it has left no trace.
func restore(dir string) error {
	from := whereabouts(dir)
	if from == dir {
		return nil
	}
	return (&State{dir: dir, taken: from}).PutBack()
}

func read(dir string) (m manifest, err error) {
	data, err := bounded.ReadFile(manifestPath(dir), bounded.MaxDocument)
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
		return m, &MisfitError{"it was written by another version of hyve"}
	case m.Shape != shape:
		return m, &MisfitError{"image, hypervisor or hardware have changed"}
	case m.Disk != now:
		return m, &MisfitError{"the disk is another or has changed since"}
	}
	return m, nil
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
	// One that was taken is nothing without its mark.
	if gone := os.Remove(markPath(takenDir(dir))); gone != nil && !errors.Is(gone, fs.ErrNotExist) {
		err = errors.Join(err, gone)
	}
	if err := errors.Join(err, os.RemoveAll(dir), os.RemoveAll(dir+".new"), os.RemoveAll(takenDir(dir))); err != nil {
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
