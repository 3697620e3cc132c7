package debian

import (
	"bytes"
	_ "embed"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"

	"github.com/ProtonMail/go-crypto/openpgp"

	"github.com/hyve-vm/hyve/internal/bounded"
)

// Debian's archive keys, from the package debian-archive-keyring 2025.1
// (trixie): bullseye, bookworm and trixie.
//
//go:embed debian-archive-keyring.pgp
var archiveKeys []byte

// hostKeyrings is where a Debian or Ubuntu host keeps the same keys, perhaps
// newer ones.
const hostKeyrings = "/usr/share/keyrings"

// Keyring returns the keys that may sign the archive: those embedded and, on a
// host that has them, those of its own debian-archive-keyring package.
func Keyring() (openpgp.EntityList, error) {
	keys, err := openpgp.ReadKeyRing(bytes.NewReader(archiveKeys))
	if err != nil {
		return nil, fmt.Errorf("reading the embedded keyring: %w", err)
	}
	have := map[string]bool{}
	for _, k := range keys {
		have[string(k.PrimaryKey.Fingerprint)] = true
	}
	for _, name := range []string{"debian-archive-keyring.pgp", "debian-archive-keyring.gpg"} {
		file := filepath.Join(hostKeyrings, name)
		data, err := bounded.ReadFile(file, bounded.MaxDocument)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("reading a keyring: %w", err)
		}
		more, err := openpgp.ReadKeyRing(bytes.NewReader(data))
		if err != nil {
			continue // the host's file may be newer than this reader; the embedded keys remain
		}
		for _, k := range more {
			if id := string(k.PrimaryKey.Fingerprint); !have[id] {
				have[id] = true
				keys = append(keys, k)
			}
		}
	}
	return keys, nil
}
