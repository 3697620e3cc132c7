package dockermachine

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// A store is what docker-machine has kept its machines in. It is read and never written:
// they belong to whatever program made them.
type store struct{ base string }

func (s store) machines() string { return filepath.Join(s.base, "machines") }

// names returns those that there are, as the directory has them.
func (s store) names() ([]string, error) {
	if s.base == "" {
		return nil, nil
	}
	dirs, err := os.ReadDir(s.machines())
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("listing docker-machine's machines: %w", err)
	}
	var names []string
	for _, dir := range dirs {
		if dir.IsDir() && !strings.HasPrefix(dir.Name(), ".") {
			names = append(names, dir.Name())
		}
	}
	return names, nil
}

// has tells whether a machine of that name is there, in whatever state.
func (s store) has(name string) bool {
	if s.base == "" || !hostName.MatchString(name) {
		return false
	}
	info, err := os.Stat(filepath.Join(s.machines(), name))
	return err == nil && info.IsDir()
}

// load reads a machine's config.json.
func (s store) load(name string) (*document, error) {
	path := filepath.Join(s.machines(), name, "config.json")
	file, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("reading its config.json: %w", err)
	}
	defer file.Close()
	data, err := io.ReadAll(io.LimitReader(file, maxConfig+1))
	if err != nil {
		return nil, fmt.Errorf("reading its config.json: %w", err)
	}
	d, err := parseDocument(data)
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", path, err)
	}
	d.Name = name
	return d, nil
}
