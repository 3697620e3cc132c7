package guest

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
)

// writeChanged puts data at path, whole or not at all, unless it is there
// already.
func writeChanged(path string, data []byte, mode os.FileMode) error {
	_, err := replaceFile(path, data, mode)
	return err
}

// replaceFile is writeChanged and says whether the content was another. What
// these files hold is in memory or made again at the next start, so nothing is
// synced.
func replaceFile(path string, data []byte, mode os.FileMode) (bool, error) {
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
