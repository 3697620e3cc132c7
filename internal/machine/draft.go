package machine

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"
)

const (
	draftPrefix   = ".draft-"
	removedPrefix = ".removed-"
)

// A draft is a directory in the making, whose name no listing shows.
type draft struct {
	dir  Dir
	lock *Lock
}

// newDraft makes a draft of something in parent, and clears away what creations and
// removals that were killed have left there.
func newDraft(parent string) (*draft, error) {
	sweep(parent)
	path, err := os.MkdirTemp(parent, draftPrefix)
	if err != nil {
		return nil, err
	}
	d := &draft{dir: Dir(path)}
	if d.lock, err = d.dir.Acquire(); err != nil {
		d.Discard()
		return nil, err
	}
	return d, nil
}

// Dir returns the draft's directory.
func (d *draft) Dir() Dir { return d.dir }

// become gives the draft its name.
func (d *draft) become(path string) error {
	if err := os.Rename(string(d.dir), path); err != nil {
		return err
	}
	d.dir = ""
	d.lock.Release()
	return nil
}

// Discard removes the draft. After Commit it does nothing.
func (d *draft) Discard() {
	if d.dir == "" {
		return
	}
	os.RemoveAll(string(d.dir))
	if d.lock != nil {
		d.lock.Release()
	}
}

// discard takes a directory out of its parent at once, then removes it.
func discard(path string) error {
	for attempt := 1; ; attempt++ {
		trash, err := os.MkdirTemp(filepath.Dir(path), removedPrefix)
		if err != nil {
			return err
		}
		err = os.Rename(path, filepath.Join(trash, filepath.Base(path)))
		if errors.Is(err, fs.ErrNotExist) && attempt < maxAttempts {
			if _, gone := os.Stat(path); gone == nil {
				continue // somebody has swept the trash, which was empty, away
			}
		}
		return errors.Join(err, os.RemoveAll(trash))
	}
}

// maxAttempts bounds how often a removal begins again because somebody else's sweep came
// between.
const maxAttempts = 5

func sweep(parent string) {
	entries, _ := os.ReadDir(parent)
	for _, entry := range entries {
		path := filepath.Join(parent, entry.Name())
		switch {
		case strings.HasPrefix(entry.Name(), draftPrefix):
			// A draft is a few milliseconds without its lock.
			if info, err := entry.Info(); err != nil || time.Since(info.ModTime()) < time.Minute {
				continue
			}
			if held, err := Dir(path).Held(); err != nil || held {
				continue
			}
		case !strings.HasPrefix(entry.Name(), removedPrefix):
			continue
		}
		os.RemoveAll(path)
	}
}
