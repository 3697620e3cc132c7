package e2e

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// What is in volumes survives every end of a machine; nothing has to be mended.
func TestDataSurvives(t *testing.T) {
	create(t, "survivor")
	volume := func(script string) string {
		return dock(t, "survivor", "run", "--rm", "-v", "data:/data", "busybox", "sh", "-c", script)
	}
	volume("echo kept > /data/file; sync")
	// What was written just before a kill by hand is there, synced or not, and so is what
	// docker run has just started.
	id := strings.TrimSpace(dock(t, "survivor", "run", "-d", "--restart", "always", "--name", "restless", "busybox", "sleep", "100000"))
	hyve(t, "ssh", "survivor", "--", "sudo sh -c 'echo unsynced > /var/lib/docker/volumes/data/_data/late'")
	hyve(t, "kill", "survivor")
	hyve(t, "start", "survivor")
	if out := inGuest(t, "survivor", "sudo cat /var/lib/docker/volumes/data/_data/late"); out != "unsynced\n" {
		t.Errorf("what was written before the kill is %q", out)
	}
	if out := dock(t, "survivor", "ps", "--no-trunc", "-q", "--filter", "status=running"); strings.TrimSpace(out) != id {
		t.Errorf("of container %s runs %q", id, out)
	}
	dock(t, "survivor", "rm", "-f", id)
	type end struct {
		name string
		end  func()
	}
	ends := []end{
		{"stop", func() { hyve(t, "stop", "survivor") }},
		{"kill -9 of QEMU", func() {
			syscall.Kill(statusOf(t, "survivor").HypervisorPid, syscall.SIGKILL)
			eventually(t, "ls says Stopped", func() bool { return statusOf(t, "survivor").State == "Stopped" })
		}},
		{"kill -9 of the supervisor", func() {
			syscall.Kill(statusOf(t, "survivor").PID, syscall.SIGKILL)
			eventually(t, "status says Unresponsive", func() bool { return statusOf(t, "survivor").State == "Unresponsive" })
		}},
		{"kill -9 of both", func() {
			s := statusOf(t, "survivor")
			syscall.Kill(s.PID, syscall.SIGKILL)
			syscall.Kill(s.HypervisorPid, syscall.SIGKILL)
			eventually(t, "status says Stopped", func() bool { return statusOf(t, "survivor").State == "Stopped" })
		}},
		{"poweroff in the guest", func() {
			result(t, binary, "ssh", "survivor", "--", "sudo poweroff")
			eventually(t, "status says Stopped", func() bool { return statusOf(t, "survivor").State == "Stopped" })
		}},
	}
	if *long {
		ends = append(ends, end{"kill of a supervisor that is stuck", func() {
			syscall.Kill(statusOf(t, "survivor").PID, syscall.SIGSTOP)
			if _, errText, code := result(t, binary, "stop", "survivor"); code != 1 || !strings.Contains(errText, "hyve kill survivor") {
				t.Errorf("stop: exit status %d: %s", code, errText)
			}
			hyve(t, "kill", "survivor")
		}})
	}
	for _, e := range ends {
		t.Log(e.name)
		e.end()
		hyve(t, "start", "survivor")
		if out := inGuest(t, "survivor", "sudo cat /var/lib/docker/volumes/data/_data/file"); out != "kept\n" {
			t.Fatalf("after %s: the volume holds %q", e.name, out)
		}
	}
	if out := volume("cat /data/file"); out != "kept\n" {
		t.Errorf("a container sees %q in the volume", out)
	}
	// A creation that is killed at its end leaves a machine that runs, without its context.
	stdout(t, docker, "context", "rm", "-f", "hyve-survivor")
	if _, errText, code := result(t, binary, "start", "survivor"); code != 0 || !strings.Contains(errText, "already running") {
		t.Errorf("starting what runs: exit status %d: %s", code, errText)
	}
	dock(t, "survivor", "version")
}

// An emulator that crashes before its guest is up is started again.
func TestEarlyCrash(t *testing.T) {
	takesLong(t)
	create(t, "unlucky")
	hyve(t, "stop", "--cold", "unlucky")
	start := make(chan error, 1)
	go func() { _, err := try(limit, binary, "start", "unlucky"); start <- err }()
	first := 0
	eventually(t, "there is a hypervisor", func() bool { first = statusOf(t, "unlucky").HypervisorPid; return first > 0 })
	syscall.Kill(first, syscall.SIGABRT)
	if err := <-start; err != nil {
		t.Fatal(err)
	}
	if log := hyve(t, "logs", "unlucky", "--service", "supervisor"); !strings.Contains(log, "booting again") {
		t.Errorf("the log has no second boot: %s", log)
	}
}

// A kernel that panics while it boots, as it does once in many boots under emulation, is
// booted again.
func TestEarlyPanic(t *testing.T) {
	takesLong(t)
	create(t, "unsteady")
	inGuest(t, "unsteady", `printf '#!/bin/sh\ncd /var/lib/boot2docker\ntest -e panicked && exit\n: >panicked\nsync\necho c >/proc/sysrq-trigger\n' |
		sudo tee /var/lib/boot2docker/bootsync.sh >/dev/null && sudo chmod 755 /var/lib/boot2docker/bootsync.sh`)
	hyve(t, "stop", "--cold", "unsteady")
	hyve(t, "start", "unsteady")
	if log := hyve(t, "logs", "unsteady", "--service", "supervisor"); !strings.Contains(log, "booting again") || !strings.Contains(log, "kernel panic") {
		t.Errorf("the log has no second boot: %s", log)
	}
	inGuest(t, "unsteady", "test -e /var/lib/boot2docker/panicked")
}

// A container's own handler of SIGTERM is let to finish at a stop.
func TestStopIsOrderly(t *testing.T) {
	create(t, "orderly")
	id := strings.TrimSpace(dock(t, "orderly", "run", "-d", "-v", "data:/data", "busybox", "sh", "-c",
		"trap 'sleep 3; echo finished > /data/file; exit 0' TERM; echo up; while :; do sleep 0.1; done"))
	eventually(t, "it has the trap", func() bool { return dock(t, "orderly", "logs", id) == "up\n" })
	hyve(t, "stop", "orderly")
	hyve(t, "start", "orderly")
	if out := dock(t, "orderly", "run", "--rm", "-v", "data:/data", "busybox", "cat", "/data/file"); out != "finished\n" {
		t.Errorf("the handler left %q", out)
	}
}

// gone asserts that nothing is left of a machine that was not made.
func gone(t *testing.T, name string) {
	t.Helper()
	if out := hyve(t, "ls", "-q"); strings.Contains("\n"+out, "\n"+name+"\n") {
		t.Errorf("machine %s is there: %s", name, out)
	}
	if _, err := os.Stat(filepath.Join(home, "machines", name)); err == nil {
		t.Errorf("the directory of %s is there", name)
	}
	eventually(t, "no process of "+name, func() bool {
		out, _ := exec.Command("pgrep", "-f", "supervise "+name+"( |$)|guest=hyve-"+name+",?").Output()
		return len(bytes.TrimSpace(out)) == 0
	})
}

func TestInterruptedCreation(t *testing.T) {
	// With 3 GiB the first thing is a template.
	for i, cut := range []struct {
		delay time.Duration
		vm    string // that runs by then, or any time
		args  []string
	}{
		{50 * time.Millisecond, "", nil},
		{200 * time.Millisecond, "", nil},
		{0, "template", []string{"--memory", "3GiB"}},
		{500 * time.Millisecond, "", []string{"--cold"}},
		{0, "cut4", []string{"--cold"}},
	} {
		name, delay := fmt.Sprintf("cut%d", i), cut.delay
		cmd := command(context.Background(), binary, append([]string{"create", name, "--memory", "1GiB"}, cut.args...)...)
		var errText bytes.Buffer
		cmd.Stderr = &errText
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(delay)
		eventually(t, "there is a VM of "+cut.vm, func() bool {
			return cut.vm == "" || exec.Command("pgrep", "-f", "guest=hyve-"+cut.vm+"( |,|$)").Run() == nil
		})
		cmd.Process.Signal(os.Interrupt)
		cmd.Wait()
		if code := cmd.ProcessState.ExitCode(); code != 130 || !strings.Contains(errText.String(), "interrupted") {
			t.Errorf("after %v, with a VM of %q: exit status %d: %s", delay, cut.vm, code, &errText)
		}
		gone(t, name)
		gone(t, "template")
	}
}

// A creation that is killed leaves nothing, or a machine that starts.
func TestKilledCreation(t *testing.T) {
	for i, delay := range []time.Duration{100 * time.Millisecond, time.Second, 5 * time.Second} {
		name := fmt.Sprintf("killed%d", i)
		t.Cleanup(func() { try(time.Minute, binary, "rm", "-f", name) })
		cmd := command(context.Background(), binary, "create", name, "--memory", "1GiB")
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(delay)
		cmd.Process.Kill()
		cmd.Wait()
		if strings.Contains(hyve(t, "ls", "-q"), name) {
			hyve(t, "start", name)
			dock(t, name, "version")
			hyve(t, "rm", "-f", name)
		}
		gone(t, name)
	}
}

func TestCreationsAtTheSameMoment(t *testing.T) {
	t.Cleanup(func() { try(time.Minute, binary, "rm", "-f", "twin") })
	var group sync.WaitGroup
	codes, texts := make([]int, 2), make([]string, 2)
	for i := range codes {
		group.Go(func() { _, texts[i], codes[i] = result(t, binary, "create", "twin", "--memory", "1GiB") })
	}
	group.Wait()
	if codes[0]+codes[1] != 1 || !strings.Contains(texts[0]+texts[1], `machine "twin" already exists`) {
		t.Errorf("exit statuses %v: %s", codes, strings.Join(texts, "\n"))
	}
	if state := statusOf(t, "twin").State; state != "Running" {
		t.Errorf("the machine is %s", state)
	}
}

// An engine that cannot start says why, and no machine is left.
func TestEngineThatCannotStart(t *testing.T) {
	_, errText, code := result(t, binary, "create", "mute", "--memory", "1GiB", "--engine-opt", "nosuch=1")
	if code != 1 || !strings.Contains(errText, "nosuch") || strings.Contains(errText, "goroutine") {
		t.Errorf("exit status %d: %s", code, errText)
	}
	gone(t, "mute")
}

func TestGuestOutOfMemory(t *testing.T) {
	result(t, docker, "--context", "hyve-"+shared, "run", "--rm", "busybox", "sh", "-c", "tail /dev/zero")
	eventually(t, "the status names the process", func() bool {
		return strings.Contains(strings.Join(statusOf(t, shared).Problems, "\n"), "ran out of memory and tail was killed")
	})
	if out := dock(t, shared, "run", "--rm", "busybox", "echo", "alive"); out != "alive\n" {
		t.Errorf("printed %q", out)
	}
}

func TestGuestOutOfDisk(t *testing.T) {
	takesLong(t)
	create(t, "full", "--disk", "2GiB")
	_, errText, code := result(t, docker, "--context", "hyve-full", "run", "--rm", "-v", "data:/data", "busybox",
		"dd", "if=/dev/zero", "of=/data/file", "bs=1M", "count=3000")
	if code == 0 || !strings.Contains(errText, "No space left") {
		t.Errorf("exit status %d: %s", code, errText)
	}
	eventually(t, "the status says so", func() bool {
		return strings.Contains(strings.Join(statusOf(t, "full").Problems, "\n"), "disk is almost full")
	})
	hyve(t, "restart", "full")
	dock(t, "full", "volume", "rm", "data")
	if out := dock(t, "full", "run", "--rm", "busybox", "echo", "alive"); out != "alive\n" {
		t.Errorf("printed %q", out)
	}
}

// The guest's clock is the host's again soon after it was off.
func TestClockFollowsTheHost(t *testing.T) {
	hyve(t, "ssh", shared, "--", "sudo date -s '+1 day' >/dev/null")
	eventually(t, "the clock is right", func() bool {
		var guest int64
		before := time.Now().Unix()
		fmt.Sscan(hyve(t, "ssh", shared, "--", "date +%s"), &guest)
		return before-2 <= guest && guest <= time.Now().Unix()+2
	})
}

// An image that was changed is not booted.
func TestTamperedImage(t *testing.T) {
	copied := t.TempDir()
	if out, err := exec.Command("cp", "-r", filepath.Join(home, "images"), copied).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	roots, err := filepath.Glob(filepath.Join(copied, "images", "images", "*", "root.erofs"))
	if err != nil || len(roots) == 0 {
		t.Fatalf("no image: %v", err)
	}
	for _, root := range roots {
		file, err := os.OpenFile(root, os.O_WRONLY, 0)
		if err != nil {
			os.Chmod(root, 0o600)
			if file, err = os.OpenFile(root, os.O_WRONLY, 0); err != nil {
				t.Fatal(err)
			}
		}
		file.WriteAt([]byte("tampered"), 1<<20)
		file.Close()
	}
	ctx, cancel := context.WithTimeout(t.Context(), scaled(limit))
	defer cancel()
	cmd := command(ctx, binary, "create", "tampered", "--memory", "1GiB")
	cmd.Env = append(cmd.Env, "HYVE_HOME="+copied)
	out, err := cmd.CombinedOutput()
	if err == nil || !strings.Contains(string(out), "root.erofs") {
		t.Errorf("%v: %s", err, out)
	}
	if left, _ := filepath.Glob(filepath.Join(copied, "machines", "[a-z]*")); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
}

// Two versions of hyve get along.
func TestTwoVersions(t *testing.T) {
	other := filepath.Join(t.TempDir(), "hyve")
	build := exec.Command("go", "build", "-ldflags", "-X github.com/hyve-vm/hyve/internal/cli.version=other", "-o", other, "./cmd/hyve")
	build.Dir = root
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if out := stdout(t, other, "version"); !strings.Contains(out, "other") {
		t.Fatalf("version prints %s", out)
	}
	if out := stdout(t, other, "ls"); !strings.Contains(out, shared) || !strings.Contains(out, "Running") {
		t.Errorf("ls prints %s", out)
	}
	if out := stdout(t, other, "docker", "-m", shared, "run", "--rm", "busybox", "echo", "plop!"); out != "plop!\n" {
		t.Errorf("printed %q", out)
	}
}

// A reader that goes away ends hyve without a word.
func TestClosedOutput(t *testing.T) {
	out, err := command(t.Context(), "sh", "-c", binary+" logs "+shared+" | head -n 1 | wc -l").CombinedOutput()
	if err != nil || strings.TrimSpace(string(out)) != "1" {
		t.Errorf("%v: %s", err, out)
	}
}
