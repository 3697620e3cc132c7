package qemu

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"

	"github.com/google/renameio/v2"

	"github.com/hyve-vm/hyve/internal/bounded"
)

// An answer costs a process (20-100 ms) or a run on the processor, at every
// start; so it is kept, with everything in its key on which it depends. A cache
// that is absent, damaged or not writable costs time and nothing else, which is
// why nothing here returns an error.

// cached is the file's form. Only the newest answer is kept.
type cached[T any] struct {
	Key   string `json:"key"`
	Value T      `json:"value"`
}

func loadCached[T any](dir, name, key string) (T, bool) {
	var c cached[T]
	if dir == "" {
		return c.Value, false
	}
	data, err := bounded.ReadFile(filepath.Join(dir, name), bounded.MaxDocument)
	if err != nil || json.Unmarshal(data, &c) != nil || c.Key != key {
		var zero T
		return zero, false
	}
	return c.Value, true
}

func storeCached[T any](dir, name, key string, value T) {
	if dir == "" {
		return
	}
	data, err := json.Marshal(cached[T]{key, value})
	if err != nil || os.MkdirAll(dir, 0o700) != nil {
		return
	}
	_ = renameio.WriteFile(filepath.Join(dir, name), append(data, '\n'), 0o600)
}

// fileKey tells two states of a file apart without reading it.
func fileKey(path string) (string, os.FileInfo, error) {
	info, err := os.Stat(path)
	if err != nil {
		return "", nil, err
	}
	return fmt.Sprintf("%s %d %d %s", path, info.Size(), info.ModTime().UnixNano(), inode(info)), info, nil
}
