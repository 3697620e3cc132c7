package e2e

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/hyve-vm/hyve/internal/sparse"
)

func frozenDir(name string) string { return filepath.Join(home, "machines", name, "frozen") }

func needsFreezing(t *testing.T) {
	t.Helper()
	if out := hyve(t, "doctor"); strings.Contains(out, "machines boot: ") {
		t.Skipf("machines are not frozen here: %s", out)
	}
}

// thaws asserts that a machine's start was a thaw, and that its state is used up.
func thaws(t *testing.T, name string) {
	t.Helper()
	if s := statusOf(t, name); !s.Thawed || !s.MemoryShared {
		t.Errorf("%s: thawed %t, with memory that it shares %t: %s", name, s.Thawed, s.MemoryShared, s.BootReason)
	}
	if left, _ := filepath.Glob(frozenDir(name) + "*"); len(left) > 0 {
		t.Errorf("left of the frozen state: %v", left)
	}
}

// countFile is on the data disk.
const countFile = "/var/lib/boot2docker/count"

// keepCount writes a number and sees to it that it is on the disk.
func keepCount(t *testing.T, machine string, n int) {
	t.Helper()
	inGuest(t, machine, fmt.Sprintf("echo %d | sudo tee %s > /dev/null; sync", n, countFile))
}

// onTime asserts that a machine's clock is right. Asking takes time as well.
func onTime(t *testing.T, name string) {
	t.Helper()
	const allowed = 500 * time.Millisecond
	var guest float64
	before := time.Now()
	fmt.Sscan(inGuest(t, name, "date +%s.%N"), &guest)
	after := time.Now()
	if now := time.UnixMicro(int64(guest * 1e6)); now.Before(before.Add(-allowed)) || now.After(after.Add(allowed)) {
		t.Errorf("the clock of %s is off by %v, asked within %v", name, now.Sub(before), after.Sub(before))
	}
}

func boots(t *testing.T, name, reason string) {
	t.Helper()
	if s := statusOf(t, name); s.Thawed || !strings.Contains(s.BootReason, reason) {
		t.Errorf("%s: thawed %t, because %q, want %q", name, s.Thawed, s.BootReason, reason)
	}
}

// A machine that was stopped goes on with its data, and with the containers that
// a boot would start.
func TestStopAndThaw(t *testing.T) {
	needsFreezing(t)
	create(t, "icy")
	thaws(t, "icy")
	for _, policy := range []string{"no", "always", "unless-stopped", "on-failure"} {
		dock(t, "icy", "run", "-d", "--name", policy, "--restart", policy, "-v", "data:/data", "busybox", "sh", "-c",
			"trap 'echo "+policy+" >> /data/ended; exit 3' TERM; sleep 100000 & wait")
	}
	dock(t, "icy", "run", "-d", "--name", "stopped", "--restart", "unless-stopped", "busybox", "sleep", "100000")
	dock(t, "icy", "run", "-d", "--name", "stopped-always", "--restart", "always", "busybox", "sleep", "100000")
	dock(t, "icy", "stop", "-t", "0", "stopped", "stopped-always")
	dock(t, "icy", "create", "--name", "created", "--restart", "always", "busybox", "sleep", "100000")
	server := serveIn(t, "icy", "18087:80", "served")
	dock(t, "icy", "update", "--restart", "always", server)
	running := func() string {
		names := slices.Sorted(slices.Values(strings.Fields(dock(t, "icy", "ps", "--format", "{{.Names}}"))))
		return strings.Join(names, " ")
	}
	dock(t, "icy", "rename", server, "server")
	const run = "always created on-failure server stopped-always unless-stopped"
	// What the user has changed holds after a start, as after a boot.
	inGuest(t, "icy", `cd /var/lib/boot2docker && sudo mkdir -p etc/docker && echo '{"labels": ["edited=yes"]}' | sudo tee etc/docker/daemon.json`)
	hyve(t, "stop", "icy")
	if _, err := os.Stat(filepath.Join(frozenDir("icy"), "frozen.json")); err != nil {
		t.Fatal(err)
	}
	var starts sync.WaitGroup
	for range 2 { // and only one thaws
		starts.Go(func() {
			if _, err := try(limit, binary, "start", "icy"); err != nil {
				t.Error(err)
			}
		})
	}
	starts.Wait()
	thaws(t, "icy")
	if out := dock(t, "icy", "info", "-f", "{{.Labels}}"); out != "[edited=yes]\n" {
		t.Errorf("the engine's labels are %s", out)
	}
	if log, err := os.ReadFile(filepath.Join(home, "machines", "icy", "logs", "init.log")); err != nil || strings.Contains(string(log), "refusing") {
		t.Errorf("%v: hyve itself is refused: %s", err, log)
	}
	if got := running(); got != run {
		t.Errorf("%q run", got)
	}
	if text := get(t, "127.0.0.1:18087"); text != "served" {
		t.Errorf("the published port says %q", text)
	}
	onTime(t, "icy")
	// A state that is not thawed loses nothing: the disk is enough.
	hyve(t, "stop", "icy")
	checkDisk(t, "icy")
	hyve(t, "restart", "icy")
	boots(t, "icy", "")
	eventually(t, "the same containers run", func() bool { return running() == run })
	ended := dock(t, "icy", "run", "--rm", "-v", "data:/data", "busybox", "sort", "-u", "/data/ended")
	if ended != "always\nno\non-failure\nunless-stopped\n" {
		t.Errorf("these handled their signal: %q", ended)
	}
	hyve(t, "stop", "--cold", "icy")
	if _, err := os.Stat(frozenDir("icy")); err == nil {
		t.Error("a cold stop has frozen the machine")
	}
}

// A machine in a swarm, which does not let go of its containers, is shut down.
func TestSwarm(t *testing.T) {
	takesLong(t)
	needsFreezing(t)
	create(t, "bees")
	dock(t, "bees", "swarm", "init", "--advertise-addr", "127.0.0.1")
	hyve(t, "stop", "bees")
	if _, err := os.Stat(frozenDir("bees")); err == nil {
		t.Error("it was frozen")
	}
	hyve(t, "start", "bees")
	boots(t, "bees", "")
}

// No disk runs under a state that is not its own.
func TestStaleStates(t *testing.T) {
	needsFreezing(t)
	system, err := exec.LookPath("qemu-system-x86_64")
	if err != nil {
		t.Fatal(err)
	}
	qemu := filepath.Join(t.TempDir(), "qemu")
	if err := os.WriteFile(qemu, []byte("#!/bin/sh\nexec "+system+" \"$@\"\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	create(t, "stale", "--qemu", qemu)
	dir := filepath.Join(home, "machines", "stale")
	backup := filepath.Join(t.TempDir(), "backup")
	run := func(args ...string) {
		t.Helper()
		if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
			t.Fatalf("%q: %v: %s", args, err, out)
		}
	}
	kill := func() {
		s := statusOf(t, "stale")
		syscall.Kill(s.HypervisorPid, syscall.SIGKILL)
		syscall.Kill(s.PID, syscall.SIGKILL)
		eventually(t, "it is stopped", func() bool { return statusOf(t, "stale").State == "Stopped" })
	}
	count := 0
	write := func() { count++; keepCount(t, "stale", count) }
	type staleness struct {
		name, reason string
		do           func()
	}
	tests := []staleness{
		{"the frozen state comes back from a backup", "has changed", func() {
			hyve(t, "stop", "stale")
			run("cp", "-a", frozenDir("stale"), backup)
			hyve(t, "start", "stale")
			write()
			kill()
			run("mv", backup, frozenDir("stale"))
		}},
		{"the state is damaged", "it is damaged", func() {
			hyve(t, "stop", "stale")
			file, err := os.OpenFile(filepath.Join(frozenDir("stale"), "memory"), os.O_WRONLY, 0)
			if err != nil {
				t.Fatal(err)
			}
			file.WriteAt([]byte{1, 2, 3}, 20<<20)
			file.Close()
		}},
		{"what is thawed is nobody's memory", "load of migration failed", func() {
			hyve(t, "stop", "stale")
			forget(t, frozenDir("stale"))
		}},
		{"a machine that was thawed was killed", "", func() {
			hyve(t, "stop", "stale")
			hyve(t, "start", "stale")
			thaws(t, "stale")
			write()
			kill()
		}},
	}
	if *long {
		tests = append(tests, []staleness{
			{"the disk was written to", "has changed", func() {
				hyve(t, "stop", "stale")
				run("/sbin/debugfs", "-w", "-R", "set_super_value mnt_count 7", diskOf("stale"))
			}},
			{"all of it comes back from a backup", "has changed", func() {
				hyve(t, "stop", "stale")
				run("cp", "-a", "--sparse=always", dir, backup)
				run("rm", "-rf", dir)
				run("cp", "-a", "--sparse=always", backup, dir)
			}},
			{"the hardware is another", "have changed", func() {
				hyve(t, "stop", "stale")
				run("sed", "-i", `s/"memory": [0-9]*/"memory": 1610612736/`, filepath.Join(dir, "machine.json"))
			}},
			{"the hypervisor is another", "have changed", func() {
				hyve(t, "stop", "stale")
				run("sed", "-i", "$ a # upgraded", qemu)
			}},
		}...)
	}
	for _, test := range tests {
		t.Log(test.name)
		write()
		test.do()
		hyve(t, "start", "stale")
		boots(t, "stale", test.reason)
		if out := inGuest(t, "stale", "cat "+countFile); out != fmt.Sprintln(count) {
			t.Fatalf("the file holds %q, want %d", out, count)
		}
	}
	dock(t, "stale", "run", "--rm", "busybox", "true")
	hyve(t, "stop", "--cold", "stale")
	checkDisk(t, "stale")
}

// forget wipes the memory of a frozen machine, and has it be right.
func forget(t *testing.T, dir string) {
	t.Helper()
	memory, description := filepath.Join(dir, "memory"), filepath.Join(dir, "frozen.json")
	info, err := os.Stat(memory)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.Truncate(memory, 0), os.Truncate(memory, info.Size())); err != nil {
		t.Fatal(err)
	}
	size, sum, err := sparse.Sum(memory)
	if err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(description)
	if err != nil {
		t.Fatal(err)
	}
	changed := regexp.MustCompile(`"memory":\{.*?\}`).ReplaceAll(data, fmt.Appendf(nil, `"memory":{"size":%d,"sum":%d}`, size, sum))
	if bytes.Equal(changed, data) {
		t.Fatalf("no memory in %s", data)
	}
	if err := os.WriteFile(description, changed, 0o600); err != nil {
		t.Fatal(err)
	}
}

// A machine that was frozen for a month, or in the future, finds itself in today.
func TestFrozenForAMonth(t *testing.T) {
	needsFreezing(t)
	create(t, "winter")
	dock(t, "winter", "run", "-d", "--name", "kept", "--restart", "always", "busybox", "sleep", "100000")
	for _, how := range [][2]string{{"suspend", "-30 days"}, {"stop", "-30 days"}, {"stop", "+30 days"}} {
		word, wrong := how[0], how[1]
		// It is the guest's clock that is wrong: the host's is not ours to set.
		inGuest(t, "winter", "sudo date -s '"+wrong+"' > /dev/null")
		hyve(t, word, "winter")
		hyve(t, "start", "winter")
		thaws(t, "winter")
		t.Logf("after %s with %s", word, wrong)
		onTime(t, "winter")
		if got := dock(t, "winter", "ps", "-q", "-f", "name=kept"); got == "" {
			t.Errorf("after %s the container does not run", word)
		}
		began := time.Now()
		dock(t, "winter", "exec", "kept", "sleep", "2")
		if took := time.Since(began); took < 2*time.Second || took > scaled(20*time.Second) {
			t.Errorf("after %s two seconds took %v", word, took)
		}
		ip := strings.TrimSpace(hyve(t, "ip", "winter"))
		if certificateOf(t, ip+":2376") == "" {
			t.Error("no certificate")
		}
	}
}

// A host without room for the state costs the thaw, and nothing else.
func TestFullDiskWhileFreezing(t *testing.T) {
	takesLong(t)
	needsFreezing(t)
	dir := smallDisk(t, 2600)
	copyImages(t, dir)
	t.Cleanup(func() { at(t, dir, "rm", "-f", "full") })
	run := func(args ...string) string {
		t.Helper()
		out, code := at(t, dir, args...)
		if code != 0 {
			t.Fatalf("hyve %v: exit status %d: %s", args, code, out)
		}
		return out
	}
	run("create", "full", "--memory", "1GiB", "--disk", "2GiB")
	run("ssh", "full", "--", "echo 1 | sudo tee "+countFile+" > /dev/null; sync")
	filler := fill(t, dir, 100)
	for _, word := range []string{"suspend", "snapshot"} {
		if out, code := at(t, dir, word, "full"); code != 1 || !strings.Contains(out, "o space left") || strings.Contains(out, "panic") {
			t.Errorf("%s: exit status %d: %s", word, code, out)
		}
		run("ssh", "full", "--", "true")
	}
	if out := run("snapshot", "ls", "full", "--format", "json"); strings.TrimSpace(out) != "[]" {
		t.Errorf("a snapshot is left: %s", out)
	}
	run("stop", "full")
	if out := run("status", "full"); !strings.HasPrefix(out, "Stopped") || strings.Contains(out, "frozen") {
		t.Errorf("it is %s", out)
	}
	if left, _ := filepath.Glob(filepath.Join(dir, "machines", "full", "frozen*")); len(left) > 0 {
		t.Errorf("left of the frozen state: %v", left)
	}
	if err := os.Remove(filler); err != nil {
		t.Fatal(err)
	}
	run("start", "full")
	if out := run("ssh", "full", "--", "cat "+countFile); out != "1\n" {
		t.Errorf("the file holds %q", out)
	}
}

// A template whose maker is killed goes with it.
func TestKilledTemplate(t *testing.T) {
	takesLong(t)
	needsFreezing(t)
	t.Cleanup(func() { try(limit, binary, "rm", "-f", "orphan") })
	cmd := command(t.Context(), binary, "create", "orphan", "--memory", "777MiB")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var vm int
	eventually(t, "the template boots", func() bool {
		drafts, _ := filepath.Glob(filepath.Join(home, "templates", ".draft-*"))
		for _, draft := range drafts {
			out, err := try(limit, "env", "HYVE_HOME="+draft, binary, "status", "--format", "json", "template")
			var s status
			if err == nil && json.Unmarshal([]byte(out), &s) == nil && s.HypervisorPid > 0 {
				vm = s.HypervisorPid
			}
		}
		return vm > 0
	})
	cmd.Process.Kill()
	cmd.Wait()
	eventually(t, "its VM is gone", func() bool { return syscall.Kill(vm, 0) != nil })
	gone(t, "orphan")
}

// A template can be made before there is a machine.
func TestTemplateBeforehand(t *testing.T) {
	needsFreezing(t)
	hyve(t, "image", "build", "--freeze", "--memory", "888MiB", "--cpus", "1")
	if out := hyve(t, "doctor"); !strings.Contains(out, "1 CPU, QEMU ") || strings.Contains(out, "these boot") {
		t.Errorf("doctor says nothing of what was tried: %s", out)
	}
	t.Cleanup(func() { try(limit, binary, "rm", "-f", "prepared") })
	out, text, code := result(t, binary, "create", "prepared", "--memory", "888MiB", "--cpus", "1", "--timing")
	if code != 0 {
		t.Fatalf("%s%s", out, text)
	}
	thaws(t, "prepared")
	if strings.Contains(text, "containerd") {
		t.Errorf("a template was booted: %s", text)
	}
	if out := strings.TrimSpace(hyve(t, "ls", "-q")); strings.Contains(out, "template") {
		t.Errorf("there are %s", out)
	}
}

// Whenever a part of hyve, or all of it, is killed while it freezes or thaws, what was
// written is there and the machine starts.
func TestKilledFreeze(t *testing.T) {
	takesLong(t)
	needsFreezing(t)
	create(t, "shaky")
	n := 0
	for _, victims := range []string{"all", "the supervisor", "the hypervisor"} {
		for i, delay := range []time.Duration{20, 100, 20, 100, 200, 300, 200, 300, 400, 600, 400, 600} {
			word := []string{"stop", "start", "suspend", "resume"}[i%4]
			n++
			keepCount(t, "shaky", n)
			if end := map[string]string{"start": "stop", "resume": "suspend"}[word]; end != "" {
				hyve(t, end, "shaky")
			}
			before := statusOf(t, "shaky")
			ctx, cancel := context.WithTimeout(t.Context(), scaled(limit))
			cmd := command(ctx, binary, word, "shaky")
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			time.Sleep(delay * time.Millisecond)
			s := statusOf(t, "shaky")
			var pids []int
			if victims != "the hypervisor" {
				pids = append(pids, before.PID, s.PID)
			}
			if victims != "the supervisor" {
				pids = append(pids, before.HypervisorPid, s.HypervisorPid)
			}
			for _, pid := range pids {
				if pid > 0 {
					syscall.Kill(pid, syscall.SIGKILL)
				}
			}
			if victims == "all" {
				cmd.Process.Kill()
			}
			cmd.Wait()
			if ctx.Err() != nil {
				t.Errorf("%s hangs, %s killed after %d ms", word, victims, delay)
			}
			cancel()
			eventually(t, "the end is noticed", func() bool {
				pid := statusOf(t, "shaky").HypervisorPid
				return pid == 0 || !slices.Contains(pids, pid)
			})
			hyve(t, "start", "shaky")
			if out := inGuest(t, "shaky", "cat "+countFile); out != fmt.Sprintln(n) {
				t.Errorf("%s, %s killed after %d ms: the file holds %q", word, victims, delay, out)
			}
		}
	}
	dock(t, "shaky", "run", "--rm", "busybox", "true")
	hyve(t, "stop", "--cold", "shaky")
	checkDisk(t, "shaky")
}

// Machines that are thawed from one state, at the same moment, share no secret.
func TestTwinsOfOneTemplate(t *testing.T) {
	needsFreezing(t)
	names := []string{"castor", "pollux"}
	var both sync.WaitGroup
	for _, name := range names {
		both.Go(func() {
			if _, err := try(limit, binary, "create", name, "--registry-mirror", registry, "--memory", "1GiB"); err != nil {
				t.Error(err)
			}
		})
		t.Cleanup(func() { try(limit, binary, "rm", "-f", name) })
	}
	both.Wait()
	differ(t, names...)
	seen := map[string]string{}
	for _, name := range names {
		if s := statusOf(t, name); !s.Thawed {
			t.Errorf("%s was not thawed: %s", name, s.BootReason)
		}
		if got := inGuest(t, name, "hostname"); got != name+"\n" {
			t.Errorf("%s calls itself %s", name, got)
		}
		// What the template's guest was given is worth nothing here.
		if out := inGuest(t, name, "sudo grep -rlx template /etc /var/lib/boot2docker 2>/dev/null || :"); out != "" {
			t.Errorf("%s remembers the template: %s", name, out)
		}
		// Its engine's own ID comes with its next boot.
		hyve(t, "restart", name)
		id := dock(t, name, "info", "-f", "{{.ID}}")
		if other := seen[id]; other != "" {
			t.Errorf("%s has the engine ID of %s", name, other)
		}
		seen[id] = name
	}
}

// What a machine gives back goes back to the host, and is not taken from the template of
// which other machines' memory is made.
func TestSharedMemory(t *testing.T) {
	needsFreezing(t)
	create(t, "giver")
	thaws(t, "giver")
	templates, err := filepath.Glob(filepath.Join(home, "templates", "*", "frozen", "memory"))
	if err != nil || len(templates) == 0 {
		t.Fatal(templates, err)
	}
	sums := func() (all []uint32) {
		t.Helper()
		for _, template := range templates {
			_, sum, err := sparse.Sum(template)
			if err != nil {
				t.Fatal(err)
			}
			all = append(all, sum)
		}
		return all
	}
	before := sums()
	own := func() int64 {
		t.Helper()
		var stats []struct {
			Live struct{ HostMemoryOwn int64 }
		}
		out := hyve(t, "stats", "--no-stream", "--format", "json", "giver")
		if err := json.Unmarshal([]byte(out), &stats); err != nil || len(stats) != 1 {
			t.Fatalf("%v: %s", err, out)
		}
		return stats[0].Live.HostMemoryOwn
	}
	dock(t, "giver", "run", "-d", "--name", "full", "--tmpfs", "/touched:size=500m", "busybox", "sh", "-c",
		"dd if=/dev/zero of=/touched/file bs=1M count=400 && touch /touched/done && sleep 100000")
	eventually(t, "it has taken memory", func() bool {
		_, _, code := result(t, docker, "--context", "hyve-giver", "exec", "full", "ls", "/touched/done")
		return code == 0
	})
	full := own()
	dock(t, "giver", "rm", "-f", "full")
	// What is in pieces of less than 2 MiB stays.
	eventually(t, "it gives memory back", func() bool { return own() < full-100<<20 })
	if !slices.Equal(sums(), before) {
		t.Error("templates have changed")
	}
	hyve(t, "stop", "giver")
	hyve(t, "start", "giver")
	thaws(t, "giver")
	dock(t, "giver", "run", "--rm", "busybox", "true")
}

// sshKeyscan returns the host key of an SSH server.
func sshKeyscan(t *testing.T, address string) string {
	t.Helper()
	host, port, _ := strings.Cut(address, ":")
	return strings.Join(strings.Fields(stdout(t, "ssh-keyscan", "-t", "ed25519", "-p", port, host))[1:], " ")
}

// certificateOf returns the public key that a TLS server shows.
func certificateOf(t *testing.T, address string) string {
	t.Helper()
	ca, err := os.ReadFile(filepath.Join(home, "pki", "ca.pem"))
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(ca)
	conn, err := tls.Dial("tcp", address, &tls.Config{RootCAs: pool})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	return fmt.Sprintf("%x", conn.ConnectionState().PeerCertificates[0].RawSubjectPublicKeyInfo)
}

// What runs in a suspended machine runs on, memory, connections and all.
func TestSuspendAndResume(t *testing.T) {
	needsFreezing(t)
	create(t, "sleepy")
	dock(t, "sleepy", "network", "create", "both")
	// A connection between two containers, over which one counts in its memory.
	dock(t, "sleepy", "run", "-d", "--name", "sink", "--network", "both", "busybox",
		"nc", "-l", "-p", "7000", "-e", "sh", "-c", "cat > /counted")
	dock(t, "sleepy", "run", "-d", "--name", "source", "--network", "both", "busybox", "sh", "-c",
		"i=0; while :; do echo $i; i=$((i+1)); sleep 1; done | nc sink 7000")
	serveIn(t, "sleepy", "18088:80", "served")
	counted := func() (lines []string) {
		return strings.Fields(dock(t, "sleepy", "exec", "sink", "sh", "-c", "cat /counted 2>/dev/null || :"))
	}
	eventually(t, "the connection is there", func() bool { return len(counted()) > 0 })
	started := dock(t, "sleepy", "inspect", "-f", "{{.State.StartedAt}} {{.State.Pid}}", "source")

	hyve(t, "suspend", "sleepy")
	if state := statusOf(t, "sleepy").State; state != "Suspended" {
		t.Errorf("the machine is %s", state)
	}
	checkDisk(t, "sleepy")
	if _, errText, code := result(t, binary, "suspend", "sleepy"); code != 0 || !strings.Contains(errText, "does not run") {
		t.Errorf("a second time: exit status %d: %s", code, errText)
	}
	hyve(t, "resume", "sleepy")
	thaws(t, "sleepy")
	before := counted()
	if now := dock(t, "sleepy", "inspect", "-f", "{{.State.StartedAt}} {{.State.Pid}}", "source"); now != started {
		t.Errorf("the container was started at %s, now %s", started, now)
	}
	eventually(t, "it counts on", func() bool { return len(counted()) > len(before)+2 })
	for i, number := range counted() {
		if number != fmt.Sprint(i) {
			t.Fatalf("number %d is %s", i, number)
		}
	}
	if text := get(t, "127.0.0.1:18088"); text != "served" {
		t.Errorf("the published port says %q", text)
	}

	// A suspended machine whose state is lost boots, like one that lost its power.
	hyve(t, "suspend", "sleepy")
	if err := os.RemoveAll(frozenDir("sleepy")); err != nil {
		t.Fatal(err)
	}
	hyve(t, "start", "sleepy")
	boots(t, "sleepy", "")
	dock(t, "sleepy", "start", "sink")

	// A stop that comes while it is suspended ends it the one way or the other.
	var both sync.WaitGroup
	for _, word := range []string{"suspend", "stop"} {
		both.Go(func() { try(limit, binary, word, "sleepy") })
		time.Sleep(200 * time.Millisecond)
	}
	both.Wait()
	if state := statusOf(t, "sleepy").State; state != "Suspended" && state != "Stopped" {
		t.Errorf("the machine is %s", state)
	}
	hyve(t, "start", "sleepy")
	thaws(t, "sleepy")

	// Its user may give up what runs in it.
	hyve(t, "suspend", "sleepy")
	hyve(t, "start", "--cold", "sleepy")
	boots(t, "sleepy", "")
	if out := dock(t, "sleepy", "ps", "-q"); out != "" {
		t.Errorf("there run %s", out)
	}
}

// A resume that is cut short at any moment loses nothing of what was suspended: the machine
// is suspended still, or it has gone on.
func TestStoppedResume(t *testing.T) {
	takesLong(t)
	needsFreezing(t)
	create(t, "torn")
	keeper := func() string {
		return dock(t, "torn", "inspect", "-f", "{{.State.StartedAt}} {{.State.Pid}}", "keeper")
	}
	dock(t, "torn", "run", "-d", "--name", "keeper", "busybox", "sleep", "1000000")
	kept := 0
	for _, how := range []string{"stop", "stop --cold", "kill", "SIGTERM"} {
		for _, delay := range []time.Duration{20, 80, 110, 150, 300} {
			dock(t, "torn", "start", "keeper")
			started := keeper()
			hyve(t, "suspend", "torn")
			runs := func() int {
				return strings.Count(hyve(t, "logs", "torn", "--service", "supervisor"), "event=RESUME")
			}
			before := runs()
			ctx, cancel := context.WithTimeout(t.Context(), scaled(limit))
			cmd := command(ctx, binary, "resume", "torn")
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			time.Sleep(delay * time.Millisecond)
			if how == "SIGTERM" {
				if pid := statusOf(t, "torn").PID; pid > 0 {
					syscall.Kill(pid, syscall.SIGTERM)
				}
			} else {
				try(limit, binary, append(strings.Fields(how), "torn")...)
			}
			cmd.Wait()
			cancel()
			eventually(t, "it has ended", func() bool {
				s := statusOf(t, "torn").State
				return s == "Suspended" || s == "Stopped" || s == "Running"
			})
			state := statusOf(t, "torn").State
			ran := runs() > before
			t.Logf("%s after %d ms: %s, ran %t", how, delay, state, ran)
			if state == "Stopped" && !ran || state == "Suspended" && ran {
				t.Errorf("%s after %d ms: it is %s, and that it ran is %t", how, delay, state, ran)
			}
			hyve(t, "start", "torn")
			if state == "Suspended" {
				kept++
				if now := keeper(); now != started {
					t.Errorf("%s after %d ms: the container was started at %s, now %s", how, delay, started, now)
				}
			}
		}
	}
	if kept == 0 {
		t.Error("no resume was cut short before the machine ran")
	}
}
