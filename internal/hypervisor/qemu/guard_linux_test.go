package qemu

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/hyve-vm/hyve/internal/confine"
)

// A guarded program believes to have punched a hole into the file that is guarded, in
// which nothing changes, and punches holes into any other. This process is not concerned.
func TestGuard(t *testing.T) {
	dir := t.TempDir()
	content := bytes.Repeat([]byte{1}, 64<<10)
	punch := func(path string) *exec.Cmd {
		return exec.Command("fallocate", "--punch-hole", "--offset", "4096", "--length", "8192", path)
	}
	holes := func(path string) bool {
		t.Helper()
		got, err := os.ReadFile(path)
		if err != nil || len(got) != len(content) {
			t.Fatal(len(got), err)
		}
		return !bytes.Equal(got, content)
	}
	guarded, other := filepath.Join(dir, "guarded"), filepath.Join(dir, "other")
	for _, path := range []string{guarded, other} {
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	file, err := os.Open(guarded)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	start := func(cmd *exec.Cmd) (*exec.Cmd, error) {
		started, _, err := startGuarded(confine.Plan{
			Policy:  confine.Policy{Read: systemTrees, Devices: []string{other}},
			Command: func() *exec.Cmd { again := *cmd; return &again },
		}, file)
		return started, err
	}
	for path, want := range map[string]bool{guarded: false, other: true} {
		var said bytes.Buffer
		cmd := punch(path)
		cmd.Stderr = &said
		if cmd, err = start(cmd); errors.Is(err, errTmpfs) {
			t.Skip("the tests' directory is on a tmpfs")
		} else if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Wait(); err != nil {
			t.Errorf("%s: %v: %s", path, err, said.Bytes())
		}
		if got := holes(path); got != want {
			t.Errorf("%s has a hole: %t", path, got)
		}
	}
	// Opened to write it can only be read.
	cmd, err := start(exec.Command("sh", "-c", `read -r _ <"$0"; exec 3<>"$0"; read -r x <&3; echo x >&3`, guarded))
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err == nil || holes(guarded) {
		t.Errorf("a guarded file was written to: %v", err)
	}
	if out, err := punch(guarded).CombinedOutput(); err != nil || !holes(guarded) {
		t.Errorf("unguarded: %v: %s", err, out)
	}
	if _, err := start(exec.Command("/nonexistent")); err == nil {
		t.Error("a program that is not there was started")
	}
}

// Holes of memory on a tmpfs would take room at the first look, and kill where there is none.
func TestMemoryOnTmpfs(t *testing.T) {
	file, err := os.CreateTemp("/dev/shm", "hyve-test-")
	if err != nil {
		t.Skip(err)
	}
	defer os.Remove(file.Name())
	defer file.Close()
	if _, _, err := startGuarded(confine.Plan{}, file); !errors.Is(err, errTmpfs) {
		t.Errorf("it says %v", err)
	}
}
