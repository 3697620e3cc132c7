package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

const gib = 1 << 30

// wantedDisk is the size that a machine's disk is to have, in bytes.
func wantedDisk(t *testing.T, name string) (size int64) {
	t.Helper()
	if _, err := fmt.Sscan(hyve(t, "inspect", name, "--format", "{{.Disk}}"), &size); err != nil {
		t.Fatal(err)
	}
	return size
}

// roomOf is the size of the file system on it, as the guest has it, in bytes.
func roomOf(t *testing.T, name string) (size int64) {
	t.Helper()
	if _, err := fmt.Sscan(inGuest(t, name, "echo $(($(stat -f -c '%b * %S' /var/lib/docker)))"), &size); err != nil {
		t.Fatal(err)
	}
	return size
}

// memoryOf is the guest's memory in MiB, without what its kernel keeps for itself.
func memoryOf(t *testing.T, name string) (size int64) {
	t.Helper()
	if _, err := fmt.Sscan(inGuest(t, name, "awk '/MemTotal/{print int($2/1024)}' /proc/meminfo"), &size); err != nil {
		t.Fatal(err)
	}
	return size
}

// pendingOf is what a machine waits for, as "memory 1GiB>2GiB".
func pendingOf(t *testing.T, name string) string {
	t.Helper()
	var status struct {
		Pending []struct{ Setting, Now, Next string }
	}
	if err := json.Unmarshal([]byte(hyve(t, "status", name, "--format", "json")), &status); err != nil {
		t.Fatal(err)
	}
	var words []string
	for _, p := range status.Pending {
		words = append(words, p.Setting+" "+p.Now+">"+p.Next)
	}
	return strings.Join(words, ", ")
}

// Settings of a running machine: its disk and its engine's have them at once and no
// container notices; memory waits, over a suspension, in copies and in what is rolled back
// to, until the machine is started anew.
func TestSet(t *testing.T) {
	needsFreezing(t)
	create(t, "settable", "--memory", "1GiB")
	size, room := wantedDisk(t, "settable"), roomOf(t, "settable")
	id := strings.TrimSpace(dock(t, "settable", "run", "-d", "--stop-timeout", "1", "busybox", "sleep", "100000"))
	began := func(name string) string {
		t.Helper()
		return dock(t, name, "inspect", "-f", "{{.State.Running}} {{.State.StartedAt}} {{.State.Pid}}", id)
	}
	running := began("settable")
	goesOn := func(name, when string) {
		t.Helper()
		if now := began(name); now != running {
			t.Errorf("%s: the container is %s, and was %s", when, now, running)
		}
		if m := memoryOf(t, name); m > 1024 {
			t.Errorf("%s: it has %d MiB", when, m)
		}
		if pending := pendingOf(t, name); pending != "memory 1GiB>1.25GiB" {
			t.Errorf("%s: it waits for %q", when, pending)
		}
	}

	hyve(t, "set", "settable", "--disk", fmt.Sprint((size+gib)>>20), "--label", "set=1", "--memory", "1280MiB",
		"--registry-mirror", registry, "--tls-san", "other.name")
	if grown := roomOf(t, "settable") - room; grown < gib*9/10 {
		t.Errorf("the file system has grown by %d bytes", grown)
	}
	if labels := dock(t, "settable", "info", "-f", "{{.Labels}}"); !strings.Contains(labels, "set=1") {
		t.Errorf("the engine has the labels %s", labels)
	}
	if info := dock(t, "settable", "info", "-f", "{{.RegistryConfig.Mirrors}}"); !strings.Contains(info, registry) {
		t.Errorf("the engine has the mirrors %s", info)
	}
	goesOn("settable", "set")
	hyve(t, "snapshot", "settable", "then")
	hyve(t, "clone", "settable", "settable2")
	t.Cleanup(func() { try(time.Minute, binary, "rm", "-f", "settable2") })
	goesOn("settable2", "cloned")
	hyve(t, "rm", "-f", "settable2")
	hyve(t, "suspend", "settable")
	hyve(t, "set", "settable", "--disk", fmt.Sprint((size+2*gib)>>20))
	hyve(t, "start", "settable")
	thaws(t, "settable")
	eventually(t, "the disk grows after a thaw", func() bool { return roomOf(t, "settable")-room > gib*19/10 })
	goesOn("settable", "resumed")

	hyve(t, "stop", "settable")
	if statusOf(t, "settable").Frozen {
		t.Error("the status promises a thaw")
	}
	hyve(t, "start", "settable")
	boots(t, "settable", "other settings")
	if m, pending := memoryOf(t, "settable"), pendingOf(t, "settable"); m < 1100 || pending != "" {
		t.Errorf("started anew it has %d MiB and waits for %q", m, pending)
	}
	hyve(t, "rollback", "-y", "settable", "then")
	goesOn("settable", "rolled back")
	eventually(t, "the disk of a snapshot grows, too", func() bool { return roomOf(t, "settable")-room > gib*19/10 })
	if _, text, code := result(t, binary, "set", "settable", "--disk", fmt.Sprint(size>>20)); code != 2 || !strings.Contains(text, "only grows") {
		t.Errorf("smaller: exit status %d, %s", code, text)
	}
	if _, text, code := result(t, binary, "set", "settable", "--label", "set=1"); code != 0 || !strings.Contains(text, "already") {
		t.Errorf("the same: exit status %d, %s", code, text)
	}
}

// A machine that is killed while its disk grows starts, with the larger disk and all that
// was on it.
func TestKilledWhileGrowing(t *testing.T) {
	takesLong(t)
	create(t, "growing", "--memory", "1GiB", "--disk", "2GiB")
	dock(t, "growing", "run", "--rm", "-v", "data:/data", "busybox", "sh", "-c", "echo kept > /data/file; sync")
	for i, delay := range []time.Duration{5, 20, 40, 80, 160} {
		size := int64(3+i) * gib
		cmd := command(context.Background(), binary, "set", "growing", "--disk", fmt.Sprint(size>>20))
		status := statusOf(t, "growing")
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(delay * time.Millisecond)
		for _, pid := range []int{status.PID, status.HypervisorPid, cmd.Process.Pid} {
			syscall.Kill(pid, syscall.SIGKILL)
		}
		cmd.Wait()
		wanted := wantedDisk(t, "growing")
		info, err := os.Stat(filepath.Join(home, "machines", "growing", "disk.img"))
		if err != nil {
			t.Fatal(err)
		}
		t.Logf("after %dms: disk of %d MiB, wanted %d", delay, info.Size()>>20, wanted>>20)
		hyve(t, "start", "growing")
		if room := roomOf(t, "growing"); room < wanted*9/10 {
			t.Errorf("after %dms: the file system has %d of %d bytes", delay, room, wanted)
		}
		if out := dock(t, "growing", "run", "--rm", "-v", "data:/data", "busybox", "cat", "/data/file"); out != "kept\n" {
			t.Errorf("after %dms: the volume has %q", delay, out)
		}
	}
}

// The power goes at many moments of docker run -d --restart always. The engine comes up and
// images are whole each time; the container is there and runs, is not there, or was
// created and never started. It is never anything else.
func TestPowerCutsDuringRun(t *testing.T) {
	takesLong(t)
	create(t, "cut", "--memory", "1GiB")
	image := strings.TrimSpace(dock(t, "cut", "images", "-q", "--no-trunc", "busybox"))
	if image == "" {
		dock(t, "cut", "pull", "-q", "busybox")
		image = strings.TrimSpace(dock(t, "cut", "images", "-q", "--no-trunc", "busybox"))
	}
	run := []string{"--context", "hyve-cut", "run", "-d", "--restart", "always", "--name", "cut", "busybox", "sleep", "100000"}
	began := time.Now()
	stdout(t, docker, run...)
	took := time.Since(began)
	dock(t, "cut", "rm", "-f", "cut")
	hyve(t, "ssh", "cut", "--", "sudo sync")
	const points = 8
	states := map[string]int{}
	for i := range points {
		delay := took * time.Duration(i+1) / (points - 1) // the last is after the end
		cmd := command(context.Background(), docker, run...)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(delay)
		syscall.Kill(statusOf(t, "cut").HypervisorPid, syscall.SIGKILL)
		err := cmd.Wait()
		eventually(t, "the machine has ended", func() bool { return statusOf(t, "cut").State == "Stopped" })
		hyve(t, "start", "cut")
		if out := strings.TrimSpace(dock(t, "cut", "images", "-q", "--no-trunc", "busybox")); out != image {
			t.Errorf("cut after %v: the image is %q", delay, out)
		}
		state := strings.TrimSpace(dock(t, "cut", "ps", "-a", "--filter", "name=cut", "--format", "{{.State}}"))
		t.Logf("cut after %v of %v, docker run: %v: %q", delay, took, err, state)
		states[state]++
		if state != "" && state != "running" && state != "created" {
			t.Errorf("cut after %v: the container is %s", delay, state)
		}
		if state == "created" { // which is all there is to do
			dock(t, "cut", "start", "cut")
		}
		if state != "" {
			dock(t, "cut", "rm", "-f", "cut")
		}
		if out := dock(t, "cut", "run", "--rm", "busybox", "echo", "whole"); out != "whole\n" {
			t.Errorf("cut after %v: a container prints %q", delay, out)
		}
		hyve(t, "ssh", "cut", "--", "sudo sync")
	}
	t.Logf("of %d cuts: %v", points, states)
}
