package build

import (
	"embed"
	"errors"
	"fmt"
	"io/fs"
)

//go:embed payload
var payload embed.FS

// licences are those of all that is linked into hyve-init. licences_test.go in
// the top directory writes the file.
//
//go:embed licences.txt
var licences string

// hint is an error whose way out is known.
type hint struct {
	error
	text string
}

// Hint returns what the user can do about the error.
func (h hint) Hint() string { return h.text }

func (h hint) Unwrap() error { return h.error }

// hyveInit returns the guest binary for arch that was embedded into this
// program.
func hyveInit(arch string) ([]byte, error) {
	name := "payload/hyve-init-" + arch
	data, err := payload.ReadFile(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, hint{
			fmt.Errorf("building an image: this hyve was built without the guest's hyve-init for %s", arch),
			"build hyve with `make build`, which embeds it",
		}
	}
	if err != nil {
		return nil, fmt.Errorf("reading the embedded hyve-init: %w", err)
	}
	return data, nil
}
