//go:build unix

package main

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// asNobody returns a function that runs this program under a name as a user whom the mode
// of files concerns, in a new directory of that user's.
func asNobody(t *testing.T) (dir string, run func(name string, env []string, words ...string) (out, errText string, status int)) {
	t.Helper()
	dir = t.TempDir()
	// Where nobody can run it. TestMain makes a hyve of it, for its name.
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	program, err := os.ReadFile(self)
	if err != nil {
		t.Fatal(err)
	}
	bin := filepath.Join(dir, "bin")
	if err := os.Mkdir(bin, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(bin, "hyve"), program, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("hyve", filepath.Join(bin, "docker-machine")); err != nil {
		t.Fatal(err)
	}
	for _, d := range []string{dir, filepath.Dir(dir)} {
		if err := os.Chmod(d, 0o711); err != nil {
			t.Fatal(err)
		}
	}
	return dir, func(name string, env []string, words ...string) (string, string, int) {
		cmd := exec.Command(filepath.Join(bin, name), words...)
		cmd.Dir = dir
		cmd.Env = append(os.Environ(), env...)
		if os.Getuid() == 0 {
			cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
		}
		var stdout, stderr bytes.Buffer
		cmd.Stdout, cmd.Stderr = &stdout, &stderr
		cmd.Run()
		return stdout.String(), stderr.String(), cmd.ProcessState.ExitCode()
	}
}

// own makes directories that are nobody's.
func own(t *testing.T, dirs ...string) {
	t.Helper()
	for _, dir := range dirs {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		if os.Getuid() == 0 {
			if err := os.Chown(dir, 65534, 65534); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// TestNoPermission has a data directory that is another user's: each word says so
// in one line, and how to go on. Root is told by nobody, so nobody asks.
func TestNoPermission(t *testing.T) {
	dir, run := asNobody(t)
	home := filepath.Join(dir, "home")
	if err := os.Mkdir(home, 0); err != nil {
		t.Fatal(err)
	}
	for _, words := range [][]string{{"ls"}, {"create", "x"}, {"start", "x"}, {"image", "ls"}} {
		for _, at := range []string{home, filepath.Join(home, "below")} {
			out, errText, status := run("hyve", []string{"HYVE_HOME=" + at, "HOME=" + dir}, words...)
			lines := strings.Split(strings.TrimSpace(errText), "\n")
			if status != 1 || out != "" || len(lines) != 2 ||
				!strings.Contains(lines[0], at) || !strings.HasSuffix(lines[0], "permission denied") && !strings.HasSuffix(lines[0], "belongs to another user (0)") ||
				!strings.Contains(lines[1], "set HYVE_HOME") {
				t.Errorf("hyve %s in %s: %d\n%s%s", strings.Join(words, " "), at, status, out, errText)
			}
		}
	}
}

// A data directory of the user's own in which nothing can be written any more.
func TestReadOnlyHome(t *testing.T) {
	dir, run := asNobody(t)
	home := filepath.Join(dir, "home")
	own(t, home)
	if err := os.Chmod(home, 0o500); err != nil {
		t.Fatal(err)
	}
	for _, words := range [][]string{{"create", "x"}, {"image", "ls"}, {"image", "build"}} {
		out, errText, status := run("hyve", []string{"HYVE_HOME=" + home, "HOME=" + dir}, words...)
		lines := strings.Split(strings.TrimSpace(errText), "\n")
		if status != 1 || out != "" || len(lines) != 2 || !strings.HasSuffix(lines[0], "permission denied") || !strings.Contains(lines[1], "set HYVE_HOME") {
			t.Errorf("hyve %s: %d\n%s%s", strings.Join(words, " "), status, out, errText)
		}
	}
}

// A data directory that cannot be made is found before anything is: status 3, a line, and
// what to do.
func TestPreCreateWithoutDataDirectory(t *testing.T) {
	dir, run := asNobody(t)
	if err := os.WriteFile(filepath.Join(dir, "file"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	for _, home := range []string{"/nonexistent", filepath.Join(dir, "root", "below"), filepath.Join(dir, "file"), filepath.Join(dir, "file", "below")} {
		for _, words := range [][]string{{"xhyve"}, {"none", "--url", "tcp://127.0.0.1:1"}} {
			out, errText, status := run("docker-machine", []string{"HYVE_HOME=", "XDG_DATA_HOME=", "DOCKER_CONFIG=", "HOME=" + home},
				append([]string{"create", "x", "--driver"}, words...)...)
			lines := strings.Split(strings.TrimSpace(errText), "\n")
			if status != 3 || out != "Running pre-create checks...\n" || len(lines) != 2 || lines[1] != "set HYVE_HOME to a directory that you may write" ||
				!strings.HasPrefix(lines[0], `Error with pre-create check: "making the data directory: `) {
				t.Errorf("%s: create --driver %s: %d\n%s%s", home, words[0], status, out, errText)
			}
		}
	}
}

// A store of docker-machine's that cannot be read hides none of hyve's own.
func TestStoreWithoutPermission(t *testing.T) {
	dir, run := asNobody(t)
	home, store := filepath.Join(dir, "hyve"), filepath.Join(dir, "store")
	machines := filepath.Join(store, "machines")
	own(t, home, store, machines, filepath.Join(machines, "theirs"))
	env := []string{"HYVE_HOME=" + home, "HOME=" + dir, "MACHINE_STORAGE_PATH=" + store, "DOCKER_HOST=tcp://127.0.0.1:1"}
	if out, errText, status := run("docker-machine", env, "create", "--driver", "none", "--url", "tcp://127.0.0.1:1", "m"); status != 0 {
		t.Fatalf("%d\n%s%s", status, out, errText)
	}
	for _, mode := range []os.FileMode{0, 0o400, 0o100} {
		if err := os.Chmod(machines, mode); err != nil {
			t.Fatal(err)
		}
		for words, want := range map[string]string{"ls -q": "m\n", "ls -f {{.Name}}": "m\n", "active": "m\n"} {
			out, errText, status := run("docker-machine", env, strings.Fields(words)...)
			if status != 0 || out != want || strings.Count(errText, "\n") != 1 ||
				!strings.HasPrefix(errText, "docker-machine's store cannot be read: ") || !strings.Contains(errText, machines) {
				t.Errorf("%s with %o: %d\n%s%s", words, mode, status, out, errText)
			}
		}
		// Names that hyve may give are free.
		if out, errText, status := run("docker-machine", env, "create", "--driver", "none", "--url", "tcp://127.0.0.1:2", "n"); status != 0 {
			t.Errorf("create with %o: %d\n%s%s", mode, status, out, errText)
		}
		if out, errText, status := run("docker-machine", env, "rm", "-y", "n"); status != 0 {
			t.Errorf("rm with %o: %d\n%s%s", mode, status, out, errText)
		}
		if mode != 0o100 {
			if _, errText, status := run("docker-machine", env, "status", "theirs"); status != 1 || !strings.HasPrefix(errText, "docker-machine's store cannot be read: ") {
				t.Errorf("status with %o: %d\n%s", mode, status, errText)
			}
		}
	}
	os.Chmod(machines, 0o700) // to be removed
	// Nor do engines.
	if err := os.Chmod(filepath.Join(home, "engines"), 0); err != nil {
		t.Fatal(err)
	}
	own(t, filepath.Join(home, "machines", "broken"))
	out, errText, status := run("docker-machine", env, "ls", "-f", "{{.Name}}")
	if status != 0 || out != "broken\ntheirs\n" || strings.Count(errText, "\n") != 1 || !strings.HasPrefix(errText, "listing the adopted engines: ") {
		t.Errorf("ls without engines: %d\n%s%s", status, out, errText)
	}
	os.Chmod(filepath.Join(home, "engines"), 0o700)
}
