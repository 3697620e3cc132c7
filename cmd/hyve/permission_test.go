//go:build unix

package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// TestNoPermission has a data directory that is another user's: each word says so
// in one line, and how to go on. Root is told by nobody, so nobody asks.
func TestNoPermission(t *testing.T) {
	dir := t.TempDir()
	home := filepath.Join(dir, "home")
	if err := os.Mkdir(home, 0); err != nil {
		t.Fatal(err)
	}
	// Where nobody can run it. TestMain makes a hyve of it, for its name.
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	program, err := os.ReadFile(self)
	if err != nil {
		t.Fatal(err)
	}
	hyve := filepath.Join(dir, "hyve")
	if err := os.WriteFile(hyve, program, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, d := range []string{dir, filepath.Dir(dir)} {
		if err := os.Chmod(d, 0o711); err != nil {
			t.Fatal(err)
		}
	}
	for _, words := range [][]string{{"ls"}, {"create", "x"}, {"start", "x"}, {"image", "ls"}} {
		for _, at := range []string{home, filepath.Join(home, "below")} {
			cmd := exec.Command(hyve, words...)
			cmd.Dir = dir
			cmd.Env = append(os.Environ(), "HYVE_HOME="+at, "HOME="+dir)
			if os.Getuid() == 0 {
				cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
			}
			out, err := cmd.CombinedOutput()
			lines := strings.Split(strings.TrimSpace(string(out)), "\n")
			if err == nil || cmd.ProcessState.ExitCode() != 1 || len(lines) != 2 ||
				!strings.Contains(lines[0], at) || !strings.HasSuffix(lines[0], "permission denied") && !strings.HasSuffix(lines[0], "belongs to another user (0)") || !strings.Contains(lines[1], "set HYVE_HOME") {
				t.Errorf("hyve %s in %s: %v\n%s", strings.Join(words, " "), at, err, out)
			}
		}
	}
}
