package e2e

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/creack/pty"
)

// at runs hyve with another data directory.
func at(t *testing.T, home string, args ...string) (out string, code int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), scaled(limit))
	defer cancel()
	cmd := command(ctx, binary, args...)
	cmd.Env = append(cmd.Env, "HYVE_HOME="+home)
	text, err := cmd.CombinedOutput()
	if ctx.Err() != nil || cmd.ProcessState == nil {
		t.Fatalf("hyve %s: %v\n%s", strings.Join(args, " "), err, text)
	}
	return string(text), cmd.ProcessState.ExitCode()
}

// copyImages gives another data directory the images, so that it need not build.
func copyImages(t *testing.T, to string) {
	t.Helper()
	if err := os.MkdirAll(to, 0o700); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("cp", "-a", filepath.Join(home, "images"), to).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
}

// A data directory may have any name, also one too long for sockets.
func TestOddDataDirectory(t *testing.T) {
	odd := filepath.Join(t.TempDir(), "mit Leerzeichen, 'Komma' und äöü", strings.Repeat("lang", 20))
	copyImages(t, odd)
	t.Cleanup(func() { at(t, odd, "rm", "-f", "odd") })
	if out, code := at(t, odd, "create", "odd", "--memory", "1GiB"); code != 0 {
		t.Fatalf("create: %s", out)
	}
	if out, code := at(t, odd, "docker", "-m", "odd", "version", "-f", "{{.Server.Version}}"); code != 0 || strings.TrimSpace(out) == "" {
		t.Errorf("docker version: %s", out)
	}
	if out, code := at(t, odd, "ssh", "odd", "hostname"); code != 0 || out != "odd\n" {
		t.Errorf("ssh: %s", out)
	}
	if out, code := at(t, odd, "stop", "odd"); code != 0 {
		t.Errorf("stop: %s", out)
	}
}

// nobody is an ordinary user's ID on every Linux.
const nobody = 65534

// Where root runs the tests, an ordinary user must have the same.
func TestOrdinaryUser(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("all the other tests show it")
	}
	dir := t.TempDir()
	copyImages(t, filepath.Join(dir, "hyve"))
	for _, args := range [][]string{
		{"chmod", "711", filepath.Dir(dir)},
		{"mkdir", filepath.Join(dir, "bin"), filepath.Join(dir, "docker")},
		{"cp", binary, filepath.Join(dir, "bin")},
		{"chown", "-R", fmt.Sprint(nobody), dir},
	} {
		if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
	as := func(name string, args ...string) string {
		t.Helper()
		ctx, cancel := context.WithTimeout(context.Background(), scaled(limit))
		defer cancel()
		cmd := command(ctx, name, args...)
		cmd.Env = append(cmd.Env, "HYVE_HOME="+filepath.Join(dir, "hyve"), "DOCKER_CONFIG="+filepath.Join(dir, "docker"), "HOME="+dir)
		cmd.Dir = dir
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Errorf("%s %s: %v\n%s", filepath.Base(name), strings.Join(args, " "), err, out)
		}
		return string(out)
	}
	own := filepath.Join(dir, "bin", "hyve")
	t.Cleanup(func() { as(own, "rm", "-f", "mine") })
	as(own, "create", "mine", "--memory", "1GiB", "--registry-mirror", registry)
	if out := as(docker, "--context", "hyve-mine", "run", "--rm", "-p", "18086:80", "busybox", "echo", "plop!"); !strings.HasSuffix(out, "plop!\n") {
		t.Errorf("docker run: %s", out)
	}
	if out := as(own, "ssh", "mine", "--", "id", "-un"); out != "docker\n" {
		t.Errorf("ssh: %s", out)
	}
	as(own, "stop", "mine")
}

// smallDisk mounts a file system of that many MiB, which root alone can do.
func smallDisk(t *testing.T, size int) string {
	t.Helper()
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, fmt.Sprintf("size=%dm,mode=700", size)); err != nil {
		t.Skipf("mounting a small disk: %v", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// smallBtrfs mounts a Btrfs of that many MiB, which root alone can do.
func smallBtrfs(t *testing.T, size int64) string {
	t.Helper()
	image, dir := filepath.Join(t.TempDir(), "btrfs"), t.TempDir()
	if err := os.WriteFile(image, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(image, size<<20); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{{"mkfs.btrfs", "-q", image}, {"mount", "-o", "loop", image, dir}} {
		if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
			t.Skipf("mounting a Btrfs: %v: %s", err, out)
		}
	}
	t.Cleanup(func() {
		if out, err := exec.Command("umount", dir).CombinedOutput(); err != nil {
			t.Errorf("%v: %s", err, out)
		}
	})
	return dir
}

// fill leaves that many MiB free on a disk and returns what to remove.
func fill(t *testing.T, dir string, leave int64) (filler string) {
	t.Helper()
	var st syscall.Statfs_t
	if err := syscall.Statfs(dir, &st); err != nil {
		t.Fatal(err)
	}
	filler = filepath.Join(dir, "filler")
	file, err := os.Create(filler)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	block := make([]byte, 1<<20)
	for n := int64(st.Bavail)*st.Bsize>>20 - leave; n > 0; n-- {
		if _, err := file.Write(block); err != nil {
			t.Fatal(err)
		}
	}
	return filler
}

func TestFullDiskWhileBuilding(t *testing.T) {
	dir := smallDisk(t, 200)
	// What has been downloaded need not be again.
	if err := os.Symlink(filepath.Join(home, "cache"), filepath.Join(dir, "cache")); err != nil {
		t.Fatal(err)
	}
	out, code := at(t, dir, "image", "build")
	if code != 1 || !strings.Contains(out, "building an image") || !strings.Contains(out, "MB are free, ") ||
		!strings.Contains(out, "choose another disk") {
		t.Errorf("exit status %d: %s", code, out)
	}
	left, err := os.ReadDir(filepath.Join(dir, "images", "images"))
	if err != nil || len(left) > 0 {
		t.Errorf("left: %v, %v", left, err)
	}
}

func TestFullDiskWhileCreating(t *testing.T) {
	dir := smallDisk(t, 2200)
	copyImages(t, dir)
	fill(t, dir, 0)
	out, code := at(t, dir, "create", "x", "--memory", "1GiB", "--disk", "2GiB")
	if code != 1 || !strings.Contains(out, "no space left") {
		t.Errorf("exit status %d: %s", code, out)
	}
	if out, _ := at(t, dir, "ls", "-q"); out != "" {
		t.Errorf("a machine is left: %s", out)
	}
}

// A host whose disk is full pauses the machine; when there is room again it goes
// on, and nothing is lost.
func TestFullDiskWhileRunning(t *testing.T) {
	takesLong(t)
	dir := smallDisk(t, 2200)
	copyImages(t, dir)
	t.Cleanup(func() { at(t, dir, "rm", "-f", "tight") })
	if out, code := at(t, dir, "create", "tight", "--memory", "1GiB", "--disk", "2GiB", "--registry-mirror", registry); code != 0 {
		t.Fatalf("create: %s", out)
	}
	if out, code := at(t, dir, "docker", "-m", "tight", "pull", "busybox"); code != 0 {
		t.Fatalf("pull: %s", out)
	}
	filler := fill(t, dir, 100)
	id, code := at(t, dir, "docker", "-m", "tight", "run", "-d", "busybox", "sh", "-c",
		"dd if=/dev/urandom of=/some bs=1M count=10 && for i in $(seq 20); do cat /some; done > /file && sync")
	if code != 0 {
		t.Fatalf("run: %s", id)
	}
	paused := func() bool {
		out, _ := at(t, dir, "status", "tight")
		return strings.Contains(out, "disk cannot be written")
	}
	eventually(t, "the status names the full disk", paused)
	if err := os.Remove(filler); err != nil {
		t.Fatal(err)
	}
	if out, code := at(t, dir, "docker", "-m", "tight", "wait", strings.TrimSpace(id)); code != 0 || strings.TrimSpace(out) != "0" {
		t.Errorf("the container ended with %s", out)
	}
	eventually(t, "the problem is taken back", func() bool { return !paused() })
}

// hyve logs -f prints lines as they come, each with the name of its part.
func TestFollowedMachineLogs(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), scaled(limit))
	defer cancel()
	cmd := command(ctx, binary, "logs", "-f", "-n", "0", shared)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer cmd.Wait()
	defer cancel()
	serveIn(t, shared, "18085:80", "x")
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		if strings.HasPrefix(lines.Text(), "supervisor | ") && strings.Contains(lines.Text(), "port=18085") {
			return
		}
	}
	t.Error("no line about the port came")
}

func TestSSHTerminalAndSignals(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), scaled(limit))
	defer cancel()
	terminal, err := pty.StartWithSize(command(ctx, binary, "ssh", shared), &pty.Winsize{Rows: 33, Cols: 77})
	if err != nil {
		t.Fatal(err)
	}
	defer terminal.Close()
	go fmt.Fprint(terminal, "tty; stty size; echo do''ne; exit\n")
	var out bytes.Buffer
	out.ReadFrom(terminal) // ends with EIO
	for _, want := range []string{"/dev/pts/", "33 77", "done"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("%q is missing in %q", want, out.String())
		}
	}

	cmd := command(ctx, binary, "ssh", shared, "--", "trap 'echo caught; exit 3' TERM; echo up; while :; do sleep 0.1; done")
	pipe, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	up := make([]byte, 3)
	if _, err := pipe.Read(up); err != nil {
		t.Fatal(err)
	}
	cmd.Process.Signal(syscall.SIGTERM)
	rest := make([]byte, 100)
	n, _ := pipe.Read(rest)
	cmd.Wait()
	if code := cmd.ProcessState.ExitCode(); code != 3 || string(rest[:n]) != "caught\n" {
		t.Errorf("exit status %d after %q", code, rest[:n])
	}
}

func TestDoctor(t *testing.T) {
	out := hyve(t, "doctor")
	for _, want := range []string{"hypervisor", "QEMU", "acceleration", "guest image", "data directory"} {
		if !strings.Contains(out, want) {
			t.Errorf("%q is missing in %s", want, out)
		}
	}
	if s := statusOf(t, shared); s.Accelerator == "tcg" && !strings.Contains(out, "software emulation: ") {
		t.Errorf("the machine is emulated, doctor does not say why: %s", out)
	}
}
