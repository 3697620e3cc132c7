package e2e

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// counting starts a container that counts in its memory and writes the number to a
// volume, ten times a second.
func counting(t *testing.T, machine string) (id string) {
	t.Helper()
	return strings.TrimSpace(dock(t, machine, "run", "-d", "-v", "counted:/data", "busybox", "sh", "-c",
		"trap exit TERM; i=0; while :; do i=$((i+1)); echo $i > /data/next; mv /data/next /data/count; usleep 100000; done"))
}

func counted(t *testing.T, machine, container string) int {
	t.Helper()
	n, err := strconv.Atoi(strings.TrimSpace(dock(t, machine, "exec", container, "cat", "/data/count")))
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// A clone of a running machine goes on from the same moment, containers and all, and
// neither knows of the other.
func TestClone(t *testing.T) {
	needsFreezing(t)
	create(t, "dolly")
	counter := counting(t, "dolly")
	server := serveIn(t, "dolly", "18088:80", "cloned")
	address := func(name string) string { return strings.TrimSpace(hyve(t, "ip", name)) }
	if text := get(t, address("dolly")+":18088"); text != "cloned" {
		t.Fatalf("the original says %q", text)
	}
	// A connection through the original, which is only paused.
	conn, err := net.Dial("tcp", address("dolly")+":18088")
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	started := dock(t, "dolly", "inspect", "-f", "{{.State.StartedAt}}", counter, server)
	before := counted(t, "dolly", counter)

	t.Cleanup(func() { try(limit, binary, "rm", "-f", "polly") })
	hyve(t, "clone", "dolly", "polly")
	thaws(t, "polly")
	for _, name := range []string{"dolly", "polly"} {
		if got := dock(t, name, "inspect", "-f", "{{.State.StartedAt}}", counter, server); got != started {
			t.Errorf("containers of %s were started at %s, not %s", name, got, started)
		}
		first := counted(t, name, counter)
		if first < before {
			t.Errorf("%s counts from %d, after %d", name, first, before)
		}
		eventually(t, name+" counts on", func() bool { return counted(t, name, counter) > first })
		if text := get(t, address(name)+":18088"); text != "cloned" {
			t.Errorf("%s says %q", name, text)
		}
		if got := inGuest(t, name, "hostname"); got != name+"\n" {
			t.Errorf("%s calls itself %s", name, got)
		}
		onTime(t, name)
	}
	fmt.Fprintf(conn, "GET / HTTP/1.0\r\n\r\n")
	if answer, _ := io.ReadAll(conn); !strings.Contains(string(answer), "cloned") {
		t.Errorf("the connection through the original says %q", answer)
	}
	differ(t, "dolly", "polly")
	// What happens in one happens in it alone.
	dock(t, "polly", "exec", counter, "touch", "/data/only-here")
	if _, _, code := result(t, docker, "--context", "hyve-dolly", "exec", counter, "ls", "/data/only-here"); code == 0 {
		t.Error("the original has the clone's file")
	}
	hyve(t, "stop", "dolly")
	hyve(t, "stop", "--cold", "polly")
	checkDisk(t, "dolly")
	checkDisk(t, "polly")
	hyve(t, "rm", "-f", "polly")

	// A clone of a machine that is stopped is stopped.
	hyve(t, "clone", "dolly", "polly")
	for _, name := range []string{"polly", "dolly"} {
		if s := statusOf(t, name); s.State != "Stopped" {
			t.Errorf("%s is %s", name, s.State)
		}
		hyve(t, "start", name)
		thaws(t, name)
	}
	differ(t, "dolly", "polly")

	for _, test := range []struct {
		want string
		args []string
	}{
		{"already exists", []string{"clone", "dolly", "polly"}},
		{"does not exist", []string{"clone", "nobody", "somebody"}},
		{"no machine's name", []string{"clone", "dolly", "no/name"}},
		{"are expected", []string{"clone", "dolly"}},
	} {
		if _, text, code := result(t, binary, test.args...); code == 0 || !strings.Contains(text, test.want) {
			t.Errorf("%v: exit status %d, %q, want %q", test.args, code, text, test.want)
		}
	}
}

// On a file system that can share blocks, a copy of a disk takes no room of its own.
func TestReflinks(t *testing.T) {
	needsFreezing(t)
	dir := smallBtrfs(t, 3000)
	copyImages(t, dir)
	free := func() int64 {
		t.Helper()
		syscall.Sync()
		var st syscall.Statfs_t
		if err := syscall.Statfs(dir, &st); err != nil {
			t.Fatal(err)
		}
		return int64(st.Bfree) * st.Bsize >> 20
	}
	must := func(args ...string) string {
		t.Helper()
		out, code := at(t, dir, args...)
		if code != 0 {
			t.Fatalf("hyve %s: %s", strings.Join(args, " "), out)
		}
		return out
	}
	t.Cleanup(func() { at(t, dir, "rm", "-f", "original", "copy") })
	must("create", "original", "--memory", "1GiB", "--disk", "2GiB")
	sum := must("ssh", "original", "--", "sudo dd if=/dev/urandom of=/var/lib/docker/random bs=1M count=100 status=none; sudo sha256sum /var/lib/docker/random")
	must("stop", "original")
	before := free()
	must("clone", "original", "copy")
	if took := before - free(); took > 30 {
		t.Errorf("the copy of a machine with a file of 100 MiB took %d MiB", took)
	}
	must("start", "copy")
	if out := must("status", "copy"); !strings.Contains(out, "thawed") {
		t.Errorf("the copy was not thawed: %s", out)
	}
	if out := must("ssh", "copy", "--", "sudo sha256sum /var/lib/docker/random"); out != sum {
		t.Errorf("the copy has %q, the original %q", out, sum)
	}
}

// A machine returns to its snapshots.
func TestSnapshots(t *testing.T) {
	needsFreezing(t)
	create(t, "past")
	counter := counting(t, "past")
	keepCount(t, "past", 1)
	hyve(t, "snapshot", "past", "one")
	first := counted(t, "past", counter)
	interruptSnapshots(t)
	keepCount(t, "past", 2)
	hyve(t, "stop", "past")
	hyve(t, "snapshot", "past", "two")
	hyve(t, "start", "past")
	keepCount(t, "past", 3)
	listSnapshots(t)
	rollBack(t, counter, first)
	killRollbacks(t)
	hyve(t, "stop", "--cold", "past")
	checkDisk(t, "past")
	hyve(t, "snapshot", "rm", "past", "one")
	refuseSnapshots(t)
	hyve(t, "rm", "-f", "past")
	if _, err := os.Stat(filepath.Join(home, "machines", "past")); err == nil {
		t.Error("the snapshots are still there")
	}
}

// interruptSnapshots interrupts some: the machine goes on.
func interruptSnapshots(t *testing.T) {
	t.Helper()
	for i, delay := range []time.Duration{50 * time.Millisecond, 200 * time.Millisecond, time.Second} {
		cut := command(t.Context(), binary, "snapshot", "past", fmt.Sprint("cut", i))
		if err := cut.Start(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(delay)
		cut.Process.Signal(os.Interrupt)
		cut.Wait()
		eventually(t, "its disk can be written", func() bool {
			_, _, code := result(t, binary, "ssh", "past", "--", "timeout 5 sh -c 'sudo touch "+countFile+"; sync'")
			return code == 0
		})
	}
}

func listSnapshots(t *testing.T) {
	t.Helper()
	type snapshot struct {
		Tag, State string
		Size       int64
	}
	var listed []snapshot
	if err := json.Unmarshal([]byte(hyve(t, "snapshot", "ls", "past", "--format", "json")), &listed); err != nil {
		t.Fatal(err)
	}
	listed = slices.DeleteFunc(listed, func(s snapshot) bool { return strings.HasPrefix(s.Tag, "cut") }) // if it was done already
	if len(listed) != 2 || listed[0].Tag != "one" || listed[0].State != "Running" || listed[0].Size == 0 ||
		listed[1].Tag != "two" || listed[1].State != "Stopped" {
		t.Errorf("the snapshots are %+v", listed)
	}
}

// rollBack returns to the machine that ran and counted, and to the one that was stopped.
func rollBack(t *testing.T, counter string, first int) {
	t.Helper()
	if _, text, code := result(t, binary, "rollback", "past", "one"); code == 0 || !strings.Contains(text, "left as it is") {
		t.Errorf("without a yes: %d, %q", code, text)
	}
	for range 2 { // it can be returned to more than once
		hyve(t, "rollback", "-y", "past", "one")
		thaws(t, "past")
		if n := counted(t, "past", counter); n > first+100 {
			t.Errorf("the container has counted to %d, at the snapshot it was %d", n, first)
		}
		if out := inGuest(t, "past", "cat "+countFile); out != "1\n" {
			t.Errorf("the file holds %q", out)
		}
		keepCount(t, "past", 4)
	}
	hyve(t, "stop", "past")
	hyve(t, "rollback", "-y", "past", "two")
	if s := statusOf(t, "past"); s.State != "Stopped" {
		t.Errorf("it is %s", s.State)
	}
	hyve(t, "start", "past")
	thaws(t, "past")
	if out := inGuest(t, "past", "cat "+countFile); out != "2\n" {
		t.Errorf("the file holds %q", out)
	}
}

// killRollbacks kills some: each leaves a machine that starts, with either disk.
func killRollbacks(t *testing.T) {
	t.Helper()
	for i, delay := range []time.Duration{50, 200} {
		keepCount(t, "past", 5)
		cmd := command(t.Context(), binary, "rollback", "-y", "past", []string{"one", "two"}[i%2])
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(delay * time.Millisecond)
		cmd.Process.Kill()
		cmd.Wait()
		try(limit, binary, "kill", "past")
		hyve(t, "start", "past")
		if out := inGuest(t, "past", "cat "+countFile); out != "5\n" && out != []string{"1\n", "2\n"}[i%2] {
			t.Errorf("after %d ms the file holds %q", delay, out)
		}
	}
}

func refuseSnapshots(t *testing.T) {
	t.Helper()
	for _, test := range []struct {
		want string
		args []string
	}{
		{"already exists", []string{"snapshot", "past", "two"}},
		{"no snapshot's tag", []string{"snapshot", "past", "../two"}},
		{"has no snapshot", []string{"rollback", "-y", "past", "one"}},
		{"has no snapshot", []string{"snapshot", "rm", "past", "one"}},
		{"does not exist", []string{"snapshot", "nobody"}},
	} {
		if _, text, code := result(t, binary, test.args...); code == 0 || !strings.Contains(text, test.want) {
			t.Errorf("%v: exit status %d, %q, want %q", test.args, code, text, test.want)
		}
	}
}

// A throw-away machine lives as long as its command.
func TestThrowaway(t *testing.T) {
	none := func(what string) {
		t.Helper()
		for name := range strings.FieldsSeq(hyve(t, "ls", "-q")) {
			if strings.HasPrefix(name, "run-") || name == "brief" {
				t.Errorf("%s: machine %s is left", what, name)
			}
		}
	}
	flags := []string{"run", "--rm", "--registry-mirror", registry, "--memory", "1GiB", "--cpus", processors}
	out := hyve(t, append(flags, "--", docker, "run", "--rm", "busybox", "echo", "plop!")...)
	if out != "plop!\n" {
		t.Errorf("the command said %q", out)
	}
	if _, text, code := result(t, binary, append(flags, "--", "sh", "-c", "exit 7")...); code != 7 || strings.Contains(text, "hyve:") {
		t.Errorf("exit status %d: %s", code, text)
	}
	if _, text, code := result(t, binary, "run", "--rm", "no-such-command"); code == 0 || !strings.Contains(text, "no-such-command") {
		t.Errorf("exit status %d: %s", code, text)
	}
	none("after it")

	// Who ends hyve ends the machine, whatever way.
	for _, signal := range []syscall.Signal{syscall.SIGTERM, syscall.SIGKILL} {
		started := filepath.Join(t.TempDir(), "started")
		cmd := command(t.Context(), binary, append(flags, "--name", "brief", "--", "sh", "-c", "touch "+started+"; exec sleep 1000")...)
		cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }) // the sleep
		eventually(t, "the command runs", func() bool { _, err := os.Stat(started); return err == nil })
		vm := statusOf(t, "brief").HypervisorPid
		cmd.Process.Signal(signal)
		cmd.Wait()
		eventually(t, "the VM is gone", func() bool { return syscall.Kill(vm, 0) != nil })
	}
	// What a killed hyve left goes with the next creation, once it is old enough.
	spec := filepath.Join(home, "machines", "brief", "machine.json")
	data, err := os.ReadFile(spec)
	if err != nil {
		t.Fatal(err)
	}
	var machine map[string]any
	if err := json.Unmarshal(data, &machine); err != nil {
		t.Fatal(err)
	}
	machine["created"] = time.Now().Add(-time.Hour).UTC()
	if data, err = json.Marshal(machine); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(spec, data, 0o600); err != nil {
		t.Fatal(err)
	}

	// One that is a copy has what the original has.
	dock(t, shared, "volume", "create", "inherited")
	out = hyve(t, "run", "--rm", "--from", shared, "--", docker, "volume", "ls", "-q", "-f", "name=inherited")
	if out != "inherited\n" {
		t.Errorf("the copy has %q", out)
	}
	none("at the end")
}

// What machines use is measured, not guessed.
func TestStats(t *testing.T) {
	type stats struct {
		Name, State        string
		CPUPercent         float64
		DiskUsed, DiskSize int64
		Live               struct {
			HostMemoryOwn, GuestMemoryUsed, GuestMemoryTotal, NetworkIn int64
		}
	}
	measure := func() (s stats) {
		t.Helper()
		var all []stats
		if err := json.Unmarshal([]byte(hyve(t, "stats", "--no-stream", "--format", "json", shared)), &all); err != nil || len(all) != 1 {
			t.Fatalf("%v, %v", all, err)
		}
		return all[0]
	}
	idle := measure()
	if idle.Name != shared || idle.State != "Running" || idle.DiskUsed <= 0 || idle.DiskUsed > idle.DiskSize ||
		idle.Live.HostMemoryOwn < 100<<20 || idle.Live.GuestMemoryUsed < 50<<20 || idle.Live.GuestMemoryUsed > idle.Live.GuestMemoryTotal {
		t.Errorf("an idle machine uses %+v", idle)
	}
	// More than is asked for below: the engine may let go of some memory meanwhile.
	id := strings.TrimSpace(dock(t, shared, "run", "-d", "--tmpfs", "/full", "busybox", "sh", "-c",
		"dd if=/dev/urandom of=/full/file bs=1M count=150 && touch /full/done; while :; do :; done"))
	t.Cleanup(func() { dock(t, shared, "rm", "-f", id) })
	eventually(t, "the file is full", func() bool {
		_, _, code := result(t, docker, "--context", "hyve-"+shared, "exec", id, "ls", "/full/done")
		return code == 0
	})
	dockWith(t, strings.Repeat("x", 10<<20), "exec", "-i", id, "cp", "/dev/stdin", "/dev/null")
	if busy := measure(); busy.CPUPercent < 30 || busy.Live.GuestMemoryUsed < idle.Live.GuestMemoryUsed+80<<20 ||
		busy.Live.NetworkIn < idle.Live.NetworkIn+10<<20 {
		t.Errorf("a busy machine uses %+v, idle it was %+v", busy, idle)
	}
	if _, text, code := result(t, binary, "stats", "nobody"); code == 0 || !strings.Contains(text, "does not exist") {
		t.Errorf("exit status %d: %s", code, text)
	}
}

// dockWith runs docker against the shared machine with that input.
func dockWith(t *testing.T, input string, args ...string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), scaled(limit))
	defer cancel()
	cmd := command(ctx, docker, append([]string{"--context", "hyve-" + shared}, args...)...)
	cmd.Stdin = strings.NewReader(input)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("docker %v: %v\n%s", args, err, out)
	}
}

// differ asserts that two machines share no secret.
func differ(t *testing.T, names ...string) {
	t.Helper()
	seen := map[string]string{}
	sessions := tls.NewLRUClientSessionCache(1)
	for _, name := range names {
		if resumes(t, name, sessions) {
			t.Errorf("%s reads a TLS ticket of another machine", name)
		}
		if !resumes(t, name, sessions) {
			t.Errorf("%s does not read its own TLS ticket", name)
		}
		ip := strings.TrimSpace(hyve(t, "ip", name))
		for what, value := range map[string]string{
			"machine-id":     inGuest(t, name, "cat /etc/machine-id"),
			"address":        ip,
			"random numbers": inGuest(t, name, "head -c 32 /dev/urandom | base64"),
			"kernel's uuid":  inGuest(t, name, "cat /proc/sys/kernel/random/uuid"),
			"container's ID": dock(t, name, "create", "busybox"),
			"host key":       sshKeyscan(t, statusOf(t, name).Endpoints.SSH),
			"certificate":    certificateOf(t, ip+":2376"),
		} {
			if value = strings.TrimSpace(value); value == "" {
				t.Errorf("%s has no %s", name, what)
			}
			if other := seen[value]; other != "" {
				t.Errorf("%s has the %s of %s", name, what, other)
			}
			seen[value] = what + " of " + name
		}
	}
}

// resumes tells whether a machine's engine takes up a TLS session again.
func resumes(t *testing.T, name string, sessions tls.ClientSessionCache) bool {
	t.Helper()
	dir := filepath.Join(home, "machines", name)
	cert, err := tls.LoadX509KeyPair(filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem"))
	if err != nil {
		t.Fatal(err)
	}
	conn, err := tls.Dial("tcp", strings.TrimSpace(hyve(t, "ip", name))+":2376", &tls.Config{
		Certificates:       []tls.Certificate{cert},
		ClientSessionCache: sessions,
		ServerName:         "any", // under which the cache keeps it
		InsecureSkipVerify: true,
	})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	io.WriteString(conn, "GET /_ping HTTP/1.0\r\n\r\n")
	if _, err := io.ReadAll(conn); err != nil { // the ticket comes with it
		t.Fatal(err)
	}
	return conn.ConnectionState().DidResume
}
