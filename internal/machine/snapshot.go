package machine

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"time"

	"github.com/google/renameio/v2"

	"github.com/hyve-vm/hyve/internal/bounded"
	"github.com/hyve-vm/hyve/internal/hint"
)

// A Snapshot is a copy of a machine's disk and, perhaps, frozen state. It is kept in
// the machine's directory and goes with it.
type Snapshot struct {
	Tag     string    `json:"tag"`
	Created time.Time `json:"created"`
	// Boot is what the machine had, nil in a snapshot of an older hyve.
	Boot *Boot `json:"boot,omitempty"`

	Dir Dir `json:"-"` // with a disk and perhaps a frozen state
}

// SnapshotsDir holds one directory per snapshot.
func (d Dir) SnapshotsDir() string { return filepath.Join(string(d), "snapshots") }

func (d Dir) snapshot(tag string) Dir { return Dir(filepath.Join(d.SnapshotsDir(), tag)) }

// description is the snapshot's file; the snapshot exists when it does.
func (d Dir) description() string { return filepath.Join(string(d), "snapshot.json") }

// MaxTag is how many characters a snapshot's tag may have, as docker has it.
const MaxTag = 128

var tagPattern = regexp.MustCompile(`^[a-zA-Z0-9_][a-zA-Z0-9_.-]*$`)

// CheckTag returns what is wrong with a snapshot's tag, nil if nothing is.
func CheckTag(tag string) error {
	if len(tag) > MaxTag || !tagPattern.MatchString(tag) {
		return fmt.Errorf("%q is no snapshot's tag: at most %d letters, digits, and _ - . after the first", tag, MaxTag)
	}
	return nil
}

// NoSnapshotError says that a machine has no snapshot of that tag.
type NoSnapshotError struct{ Machine, Tag string }

func (e *NoSnapshotError) Error() string {
	return fmt.Sprintf("machine %q has no snapshot %q", e.Machine, e.Tag)
}

// Hint says how to go on.
func (e *NoSnapshotError) Hint() string { return "hyve snapshot ls " + e.Machine + " lists them" }

// Snapshot returns a snapshot. The error is a *NoSnapshotError if there is none.
func (d Dir) Snapshot(tag string) (*Snapshot, error) {
	if err := CheckTag(tag); err != nil {
		return nil, err
	}
	s := &Snapshot{Dir: d.snapshot(tag)}
	data, err := bounded.ReadFile(s.Dir.description(), bounded.MaxDocument)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, &NoSnapshotError{filepath.Base(string(d)), tag}
	}
	if err == nil {
		err = json.Unmarshal(data, s)
	}
	if err != nil {
		return nil, fmt.Errorf("reading snapshot %q: %w", tag, err)
	}
	s.Tag = tag
	return s, nil
}

// Snapshots returns a machine's snapshots, the oldest first. One that cannot be read
// is left out.
func (d Dir) Snapshots() ([]*Snapshot, error) {
	entries, err := os.ReadDir(d.SnapshotsDir())
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("listing the snapshots: %w", err)
	}
	var snapshots []*Snapshot
	for _, e := range entries {
		if s, err := d.Snapshot(e.Name()); err == nil {
			snapshots = append(snapshots, s)
		}
	}
	slices.SortStableFunc(snapshots, func(a, b *Snapshot) int { return a.Created.Compare(b.Created) })
	return snapshots, nil
}

// A SnapshotDraft is a snapshot in the making.
type SnapshotDraft struct {
	draft
	machine *Machine
	tag     string
}

// DraftSnapshot begins a snapshot of that tag, which must not exist.
func (m *Machine) DraftSnapshot(tag string) (*SnapshotDraft, error) {
	d := m.Dir()
	if err := d.checkFree(tag); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(d.SnapshotsDir(), 0o700); err != nil {
		return nil, fmt.Errorf("making the directory of the snapshots: %w", err)
	}
	draft, err := newDraft(d.SnapshotsDir())
	if err != nil {
		return nil, fmt.Errorf("making the snapshot's directory: %w", err)
	}
	return &SnapshotDraft{*draft, m, tag}, nil
}

func (d Dir) checkFree(tag string) error {
	if err := CheckTag(tag); err != nil {
		return err
	}
	if _, err := os.Lstat(string(d.snapshot(tag))); err == nil {
		return hint.With(
			fmt.Errorf("snapshot %q already exists", tag),
			fmt.Sprintf("hyve snapshot rm %s %s removes it", filepath.Base(string(d)), tag),
		)
	}
	return nil
}

// Commit keeps the snapshot. Of two with one tag the first stays.
func (d *SnapshotDraft) Commit() error {
	boot := d.machine.Boot()
	data, err := json.Marshal(Snapshot{Tag: d.tag, Created: time.Now().UTC().Truncate(time.Second), Boot: &boot})
	if err != nil {
		return err
	}
	if err := renameio.WriteFile(d.dir.description(), append(data, '\n'), 0o600); err != nil {
		return fmt.Errorf("keeping snapshot %q: %w", d.tag, err)
	}
	if err := d.become(string(d.machine.Dir().snapshot(d.tag))); err != nil {
		return errors.Join(d.machine.Dir().checkFree(d.tag), fmt.Errorf("keeping snapshot %q: %w", d.tag, err))
	}
	return nil
}

// RemoveSnapshot removes a snapshot, also one that cannot be read.
func (d Dir) RemoveSnapshot(tag string) error {
	if err := CheckTag(tag); err != nil {
		return err
	}
	err := discard(string(d.snapshot(tag)))
	if errors.Is(err, fs.ErrNotExist) {
		return &NoSnapshotError{filepath.Base(string(d)), tag}
	}
	if err != nil {
		return fmt.Errorf("removing snapshot %q: %w", tag, err)
	}
	return nil
}
