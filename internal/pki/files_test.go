package pki

import (
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/hyve-vm/hyve/internal/bounded"
)

// A path of a key that another program has named may lead to anything.
func TestKeyThatIsNoFile(t *testing.T) {
	pipe := filepath.Join(t.TempDir(), "pipe")
	if err := errors.Join(syscall.Mkfifo(pipe, 0o600), os.Chmod(pipe, 0o644)); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenSSHKey(pipe); !errors.Is(err, bounded.ErrIrregular) {
		t.Errorf("a pipe: %v", err)
	}
	if info, err := os.Stat(pipe); err != nil || info.Mode().Perm() != 0o644 {
		t.Errorf("its mode has become %v, %v", info.Mode(), err)
	}
}
