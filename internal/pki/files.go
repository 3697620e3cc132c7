package pki

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"

	"github.com/gofrs/flock"
	"github.com/google/renameio/v2"

	"github.com/hyve-vm/hyve/internal/bounded"
)

func makeDir(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("making the directory of the keys: %w", err)
	}
	return tighten(dir)
}

// tighten takes a file or directory from group and others.
func tighten(path string) error {
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	if mode := info.Mode().Perm(); mode&0o077 != 0 {
		if err := os.Chmod(path, mode&0o700); err != nil {
			return fmt.Errorf("making a key private: %w", err)
		}
	}
	return nil
}

// readSecret reads a key, and tightens it. What is no file is left as it is.
func readSecret(path string) ([]byte, error) {
	data, err := bounded.ReadFile(path, bounded.MaxDocument)
	if err == nil {
		err = tighten(path)
	}
	if err != nil {
		return nil, fmt.Errorf("reading a key: %w", err)
	}
	return data, nil
}

// lock keeps other processes from writing to dir until unlock.
func lock(dir string) (unlock func(), err error) {
	file := flock.New(filepath.Join(dir, ".lock"), flock.SetPermissions(0o600))
	if err := file.Lock(); err != nil {
		return nil, fmt.Errorf("locking %s: %w", dir, err)
	}
	return func() { file.Close() }, nil
}

// updateFile writes what is not there yet.
func updateFile(path string, data []byte, mode os.FileMode) error {
	old, err := bounded.ReadFile(path, bounded.MaxDocument)
	if err != nil || !bytes.Equal(old, data) {
		return writeFile(path, data, mode)
	}
	if mode&0o077 == 0 {
		return tighten(path)
	}
	return nil
}

// writeFile replaces a file in one step, whatever happens on the way.
func writeFile(path string, data []byte, mode os.FileMode) error {
	// The temporary file is beside it: in $TMPDIR a key has no business.
	err := renameio.WriteFile(path, data, mode, renameio.WithTempDir(filepath.Dir(path)), renameio.IgnoreUmask())
	if err != nil {
		return fmt.Errorf("writing %s: %w", path, err)
	}
	return nil
}
