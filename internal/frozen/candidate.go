package frozen

import (
	"fmt"
	"os"
	"path/filepath"
)

// A State is one that was taken and can be thawed, of which the fields are the files.
type State struct {
	Devices, Memory string

	dir, taken string // where it was, and is
}

// A Candidate is a state, if there is one, whose content is being looked at: the files
// Devices and Memory.
type Candidate struct {
	Devices, Memory string

	dir     string
	lost    error // of what could not be put back
	done    chan struct{}
	content content
	err     error
}

// Inspect begins to look at the state in dir, which takes a moment. The machine's lock
// is held from here on.
func Inspect(dir string) *Candidate {
	f := &Candidate{Devices: devicesPath(dir), Memory: memoryPath(dir), dir: dir, lost: restore(dir), done: make(chan struct{})}
	go func() {
		defer close(f.done)
		f.content, f.err = sumUp(dir)
	}()
	return f
}

// MightFit tells whether Take can succeed, as far as that is known at once.
func (f *Candidate) MightFit(shape, disk string) bool {
	_, err := fits(f.dir, shape, disk)
	return err == nil
}

// Take takes the state for a VM of that shape with that disk: from here on nobody
// else can. The error is ErrNone, a *MisfitError, or one that keeps the machine
// from running at all, because what is there could not be put out of the way.
func (f *Candidate) Take(shape, disk string) (*State, error) {
	if f.lost != nil {
		return nil, f.lost
	}
	if err := f.fits(shape, disk); err != nil {
		if dropped := Drop(f.dir); dropped != nil {
			return nil, dropped
		}
		return nil, err
	}
	taken := takenDir(f.dir)
	err := os.RemoveAll(taken)
	if err == nil {
		// Not synced: after a crash of the host it says nothing.
		err = os.WriteFile(markPath(f.dir), []byte(hostStart()), 0o600)
	}
	if err == nil {
		err = os.Rename(f.dir, taken)
	}
	if err == nil {
		err = syncDir(filepath.Dir(f.dir))
	}
	if err != nil {
		return nil, fmt.Errorf("taking the frozen state: %w", err)
	}
	return &State{devicesPath(taken), memoryPath(taken), f.dir, taken}, nil
}

func (f *Candidate) fits(shape, disk string) error {
	<-f.done
	m, err := fits(f.dir, shape, disk)
	switch {
	case err != nil:
		return err
	case f.err != nil:
		return &MisfitError{f.err.Error()}
	case f.content != m.Content:
		return &MisfitError{"it is damaged"}
	}
	return nil
}

// Discard removes the state; it is thawed, or could not be. A VM that has its memory
// open keeps that for itself.
func (s *State) Discard() {
	os.Remove(manifestPath(s.taken)) // first: without it the rest is nothing
	os.RemoveAll(s.taken)
}

// PutBack undoes a Take of which nothing came: nothing has run, and nobody has its files
// open.
func (s *State) PutBack() error {
	err := os.Rename(s.taken, s.dir)
	if err == nil {
		err = syncDir(filepath.Dir(s.dir))
	}
	if err != nil {
		return fmt.Errorf("putting the frozen state back: %w", err)
	}
	os.Remove(markPath(s.dir))
	return nil
}
