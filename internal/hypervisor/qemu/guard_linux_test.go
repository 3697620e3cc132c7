package qemu

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
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
	for path, want := range map[string]bool{guarded: false, other: true} {
		cmd := punch(path)
		var said bytes.Buffer
		cmd.Stderr = &said
		if err := startGuarded(cmd, file); errors.Is(err, errTmpfs) {
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
	if out, err := punch(guarded).CombinedOutput(); err != nil || !holes(guarded) {
		t.Errorf("unguarded: %v: %s", err, out)
	}
	if err := startGuarded(exec.Command("/nonexistent"), file); err == nil {
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
	if err := startGuarded(exec.Command("true"), file); !errors.Is(err, errTmpfs) {
		t.Errorf("it says %v", err)
	}
}
