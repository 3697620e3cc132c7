package build

import (
	"embed"
	"errors"
	"fmt"
	"io"
	"io/fs"

	"github.com/hyve-vm/hyve/internal/hint"
)

//go:embed payload
var payload embed.FS

// licences are those of all that is linked into hyve-init. licences_test.go in
// the top directory writes the file.
//
//go:embed licences.txt
var licences string

// openHyveInit opens the guest binary for arch that was embedded into this program.
func openHyveInit(arch string) (fs.File, error) {
	f, err := payload.Open("payload/hyve-init-" + arch)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, hint.With(
			fmt.Errorf("building an image: this hyve was built without the guest's hyve-init for %s", arch),
			"build hyve with `make build`, which embeds it",
		)
	}
	return f, err
}

func hyveInit(arch string) ([]byte, error) {
	f, err := openHyveInit(arch)
	if err != nil {
		return nil, err
	}
	return io.ReadAll(f)
}
