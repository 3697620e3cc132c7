package migrate

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/gofrs/flock"
	"github.com/google/renameio/v2"
)

// maxJournal bounds a journal, in bytes.
const maxJournal = 64 << 20

// A journal is what has arrived in a machine from one engine. It lets a migration that was
// cut short go on. The engines have the last word: what they do not have has not arrived.
type journal struct {
	Images     map[string]string         `json:"images"`     // ID there -> ID here
	Volumes    map[string]volumeRecord   `json:"volumes"`    // by name
	Containers map[string]containerEntry `json:"containers"` // by name

	path string
	lock *flock.Flock
}

// A volumeRecord tells how far a volume is.
type volumeRecord struct {
	Created string `json:"created"` // when the machine's engine says it made it: which volume it is
	Sum     string `json:"sum"`     // of the listing, "" while it is being copied
}

// A containerEntry is the SHA-256 of the definition of which a container was made.
type containerEntry struct {
	Definition string `json:"definition"`
}

// ErrBusy says that another migration into the machine is under way.
var ErrBusy = errors.New("another migration into the machine is under way")

// openJournal opens the journal, in dir, of what comes from an engine, and locks out other
// migrations into the same machine.
func openJournal(dir, engineID string) (*journal, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("making the journal's directory: %w", err)
	}
	lock := flock.New(filepath.Join(dir, ".lock"), flock.SetPermissions(0o600))
	if ok, err := lock.TryLock(); err != nil || !ok {
		return nil, errors.Join(err, ErrBusy)
	}
	sum := sha256.Sum256([]byte(engineID))
	j := &journal{path: filepath.Join(dir, hex.EncodeToString(sum[:8])+".json"), lock: lock}
	if err := j.read(); err != nil {
		lock.Close()
		return nil, fmt.Errorf("reading %s: %w", j.path, err)
	}
	return j, nil
}

func (j *journal) read() error {
	file, err := os.Open(j.path)
	switch {
	case err == nil:
		defer file.Close()
		data, err := io.ReadAll(io.LimitReader(file, maxJournal))
		if err != nil {
			return err
		}
		// One that is damaged is none: only time is lost.
		if json.Unmarshal(data, j) != nil {
			j.Images, j.Volumes, j.Containers = nil, nil, nil
		}
	case !errors.Is(err, fs.ErrNotExist):
		return err
	}
	if j.Images == nil {
		j.Images = map[string]string{}
	}
	if j.Volumes == nil {
		j.Volumes = map[string]volumeRecord{}
	}
	if j.Containers == nil {
		j.Containers = map[string]containerEntry{}
	}
	return nil
}

// keep writes the journal.
func (j *journal) keep() error {
	data, err := json.MarshalIndent(j, "", "  ")
	if err != nil {
		return err
	}
	if err := renameio.WriteFile(j.path, append(data, '\n'), 0o600); err != nil {
		return fmt.Errorf("keeping the journal: %w", err)
	}
	return nil
}

func (j *journal) close() { j.lock.Close() }
