// Package wholefile puts files in their places whole or not at all.
package wholefile

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
)

// Write puts data at path, with that mode, unless it is there already.
func Write(path string, data []byte, mode os.FileMode) error {
	_, err := Replace(path, data, mode)
	return err
}

// Replace is Write and says whether the content was another. What
// these files hold is in memory or made again at the next start, so nothing is
// synced.
func Replace(path string, data []byte, mode os.FileMode) (bool, error) {
	old, err := os.ReadFile(path)
	if err == nil && bytes.Equal(old, data) {
		return false, nil
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return false, fmt.Errorf("writing %s: %w", path, err)
	}
	tmp, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+"-*")
	if err != nil {
		return false, fmt.Errorf("writing %s: %w", path, err)
	}
	defer os.Remove(tmp.Name())
	_, err = tmp.Write(data)
	if err == nil {
		err = tmp.Chmod(mode)
	}
	if closed := tmp.Close(); err == nil {
		err = closed
	}
	if err == nil {
		err = os.Rename(tmp.Name(), path)
	}
	if err != nil {
		return false, fmt.Errorf("writing %s: %w", path, err)
	}
	return true, nil
}
