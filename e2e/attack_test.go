package e2e

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// What a container, the guest's root or another user of the host may cost. Each of these
// tests prints figures, `NAME VALUE UNIT BOUND`, and docs/security.md says what they are
// about.

// bounded prints a figure, and fails if it is over its bound.
func bounded(t *testing.T, name string, value float64, unit string, bound float64) {
	t.Helper()
	fmt.Printf("%s %.4g %s %.4g\n", name, value, unit, bound)
	if value > bound {
		t.Errorf("%s is %.4g %s, and may be %.4g", name, value, unit, bound)
	}
}

// residentMiB is the memory that a process holds, without what it shares.
func residentMiB(t *testing.T, pid int) float64 {
	t.Helper()
	for line := range strings.Lines(readFile(t, fmt.Sprintf("/proc/%d/status", pid))) {
		if rest, ok := strings.CutPrefix(line, "RssAnon:"); ok {
			kib, err := strconv.Atoi(strings.Fields(rest)[0])
			if err != nil {
				t.Fatal(err)
			}
			return float64(kib) / 1024
		}
	}
	t.Fatalf("/proc/%d/status has no RssAnon", pid)
	return 0
}

// deafListener accepts connections and never reads.
func deafListener(t *testing.T) (port int) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var kept []net.Conn
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			kept = append(kept, conn)
		}
	}()
	t.Cleanup(func() {
		l.Close()
		<-done
		for _, conn := range kept {
			conn.Close()
		}
	})
	return l.Addr().(*net.TCPAddr).Port
}

// attackFrom runs the attacker in a container, which flags describe, and waits until it has
// what it wants.
func attackFrom(t *testing.T, machine string, flags []string, words ...string) (id string, connections int) {
	t.Helper()
	return attackWith(t, machine, "attacker", flags, words...)
}

// attackWith is attackFrom with another program, which says how much it has done.
func attackWith(t *testing.T, machine, program string, flags []string, words ...string) (id string, done int) {
	t.Helper()
	args := append(append([]string{"create"}, flags...), "busybox", "/"+program)
	id = strings.TrimSpace(dock(t, machine, append(args, words...)...))
	t.Cleanup(func() { try(limit, docker, "--context", "hyve-"+machine, "rm", "-f", id) })
	dock(t, machine, "cp", buildForGuest(t, program), id+":/"+program)
	dock(t, machine, "start", id)
	eventually(t, "the "+program+" is ready", func() bool {
		n, err := fmt.Sscanf(dock(t, machine, "logs", id), "ready %d", &done)
		return n == 1 && err == nil
	})
	return id, done
}

// asNobody runs the attacker on the host as a user that hyve does not know.
func asNobody(t *testing.T, words ...string) (connections int, end func()) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("only root can be another user")
	}
	// Where everybody may run it.
	program := filepath.Join("/tmp", fmt.Sprintf("hyve-attacker-%d", os.Getpid()))
	data, err := os.ReadFile(buildForGuest(t, "attacker"))
	if err == nil {
		err = os.WriteFile(program, data, 0o755)
	}
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(program, words...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	end = func() { cmd.Process.Kill(); cmd.Wait(); os.Remove(program) }
	t.Cleanup(end)
	line, err := bufio.NewReader(out).ReadString('\n')
	if err == nil {
		_, err = fmt.Sscanf(line, "ready %d", &connections)
	}
	if err != nil {
		t.Fatalf("the attacker says %q: %v", line, err)
	}
	return connections, end
}

// serves asserts that the machine's user is served, by docker, hyve and SSH.
func serves(t *testing.T, machine string) {
	t.Helper()
	for _, words := range [][]string{
		{docker, "--context", "hyve-" + machine, "ps"}, {binary, "status", machine}, {binary, "ssh", machine, "--", "true"},
	} {
		if _, err := try(20*time.Second, words[0], words[1:]...); err != nil {
			t.Error(err)
		}
	}
}

// Connections to peers that do not read, out of a container and into one, cost a bounded
// amount of the host's memory, which is given back, and nobody else his service.
func TestAttackDeafPeers(t *testing.T) {
	takesLong(t)
	pid := statusOf(t, shared).PID
	before := residentMiB(t, pid)
	port := deafListener(t)
	out, n := attackFrom(t, shared, nil, "fill", fmt.Sprintf("host.docker.internal:%d", port), "400")
	bounded(t, "attack-deaf-out", residentMiB(t, pid)-before, "MiB", 128)
	t.Logf("%d connections out", n)
	serves(t, shared)

	deaf, _ := attackFrom(t, shared, []string{"-p", "18999:18999"}, "listen", ":18999")
	in := command(context.Background(), buildForGuest(t, "attacker"), "fill", "127.0.0.1:18999", "400")
	pipe, err := in.StdoutPipe()
	if err == nil {
		err = in.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	if _, err := bufio.NewReader(pipe).ReadString('\n'); err != nil {
		t.Fatal(err)
	}
	bounded(t, "attack-deaf-in", residentMiB(t, pid)-before, "MiB", 128)
	serves(t, shared)
	in.Process.Kill()
	in.Wait()

	dock(t, shared, "rm", "-f", out, deaf)
	ended := time.Now()
	eventually(t, "the memory is given back", func() bool { return residentMiB(t, pid)-before < 32 })
	bounded(t, "attack-deaf-over", time.Since(ended).Seconds(), "s", 60)
}

// A container that takes every connection it can get leaves docker's socket and the words
// theirs.
func TestAttackDescriptors(t *testing.T) {
	pid := statusOf(t, shared).PID
	port := deafListener(t)
	id, n := attackFrom(t, shared, nil, "hold", fmt.Sprintf("host.docker.internal:%d", port), "3000")
	t.Logf("%d connections", n)
	bounded(t, "attack-descriptors", float64(descriptorsOf(t, pid)), "descriptors", 4096)
	serves(t, shared)
	if out := dock(t, shared, "run", "--rm", "busybox", "echo", "another"); out != "another\n" {
		t.Errorf("another container said %q", out)
	}
	dock(t, shared, "rm", "-f", id)
	serves(t, shared)
}

// Another user of the host, who has no key, takes every connection he can get to the
// machine's doors. Its user is served meanwhile, and the guest keeps its memory.
func TestAttackDoors(t *testing.T) {
	s := statusOf(t, shared)
	pid1 := func() float64 {
		var kib float64
		fmt.Sscan(inGuest(t, shared, "grep RssAnon /proc/1/status | tr -dc 0-9"), &kib)
		return kib / 1024
	}
	before := pid1()
	for door, url := range map[string]string{"ssh": s.Endpoints.SSH, "tls": s.Endpoints.TCP} {
		_, address, ok := strings.Cut(url, "://")
		if !ok {
			address = url
		}
		if _, host, ok := strings.Cut(address, "@"); ok {
			address = host
		}
		n, end := asNobody(t, "hold", address, "5000")
		t.Logf("%s: %d connections", door, n)
		bounded(t, "attack-door-"+door, pid1()-before, "MiB", 32)
		serves(t, shared)
		end()
	}
}

// What a privileged container and the guest's root write to the console and the kernel's
// log stays small on the host.
func TestAttackLogs(t *testing.T) {
	inGuest(t, shared, "yes yyyyyyyyyyyyyyyy | sudo timeout 10 dd bs=4k of=/dev/hvc0 2>/dev/null; true")
	dock(t, shared, "run", "--rm", "--privileged", "busybox", "sh", "-c",
		`levels=$(cat /proc/sys/kernel/printk)
		echo 8 > /proc/sys/kernel/printk; echo on > /proc/sys/kernel/printk_devkmsg
		tr '\0' x < /dev/zero | timeout 20 dd bs=900 iflag=fullblock of=/dev/kmsg 2>/dev/null
		echo "$levels" > /proc/sys/kernel/printk; echo ratelimit > /proc/sys/kernel/printk_devkmsg`)
	console := readFile(t, filepath.Join(home, "machines", shared, "logs", "console.log"))
	for _, flood := range []string{"xxxxxxxx", "yyyyyyyy"} {
		if !strings.Contains(console, flood) {
			t.Errorf("no %s has reached the console's log: it is no flood", flood)
		}
	}
	dir := filepath.Join(home, "machines", shared)
	var size int64
	err := filepath.WalkDir(filepath.Join(dir, "logs"), func(_ string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		info, err := d.Info()
		if err == nil {
			size += info.Size()
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	bounded(t, "attack-logs", float64(size)/(1<<20), "MiB", 100)
	serves(t, shared)
}

// The name of a process that is killed for its memory gets into the kernel's log, and from
// there onto the user's terminal: readable, and without power over it.
func TestAttackTerminal(t *testing.T) {
	dock(t, shared, "run", "--rm", "--privileged", "busybox", "sh", "-c",
		`printf '<1>title \033]0;owned\007 clear \033[2J c1 \302\233 bidi \342\200\256\n' > /dev/kmsg`)
	seen := false
	eventually(t, "the line is in the console's log", func() bool {
		cmd := command(t.Context(), "script", "-qec", binary+" logs -n 200 "+shared, "/dev/null")
		out, err := cmd.Output()
		if err != nil {
			t.Fatal(err)
		}
		text := string(out)
		if i := strings.Index(text, "title "); i >= 0 {
			seen = true
			if rest := text[i:]; strings.ContainsAny(rest, "\x1b\x07\u009b\u202e") {
				t.Errorf("the terminal gets %q", rest[:min(len(rest), 200)])
			}
		}
		return seen
	})
}

// Another user of the host gets at nothing of a machine.
func TestAttackOtherUser(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("only root can be another user")
	}
	s := statusOf(t, shared)
	_, tls, _ := strings.Cut(s.Endpoints.TCP, "://")
	for what, script := range map[string]string{
		"its files":        "ls " + filepath.Join(home, "machines", shared),
		"the keys":         "cat " + filepath.Join(home, "pki", "*.pem"),
		"its disk":         "head -c 1 " + diskOf(shared),
		"its environment":  fmt.Sprintf("cat /proc/%d/environ", s.PID),
		"QEMU's memory":    fmt.Sprintf("head -c 1 /proc/%d/mem", s.HypervisorPid),
		"its sockets":      "find / -xdev -user 0 -name control.sock -writable 2>/dev/null | grep .",
		"its engine":       docker + " -H tcp://" + tls + " version",
		"its engine, TLS":  docker + " --tls -H tcp://" + tls + " version",
		"a supervisor":     fmt.Sprintf("kill -0 %d", s.PID),
		"a hypervisor":     fmt.Sprintf("kill -0 %d", s.HypervisorPid),
		"the user's /tmp/": "find /tmp -xdev -user 0 -name 'hyve*' -type d -readable 2>/dev/null | grep .",
	} {
		cmd := exec.Command("timeout", "20", "sh", "-c", script)
		cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=/nonexistent"}
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
		if out, err := cmd.CombinedOutput(); err == nil {
			t.Errorf("another user got at %s: %s", what, out)
		}
	}
}

// From a container no address leads to what is only the host's: clouds' metadata, the
// host's links, its loopback by other names; and host-access shuts its loopback, at once,
// and opens it.
func TestAttackHostAddresses(t *testing.T) {
	l, err := net.Listen("tcp", "0.0.0.0:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			conn.Write([]byte("reached\n"))
			conn.Close()
		}
	}()
	port := fmt.Sprint(l.Addr().(*net.TCPAddr).Port)
	reached := func(address, port string) bool {
		t.Helper()
		out, _, _ := result(t, docker, "--context", "hyve-"+shared, "run", "--rm", "busybox", "sh", "-c",
			"timeout 5 nc -w 3 "+address+" "+port+" </dev/null")
		return strings.Contains(out, "reached")
	}
	if !reached("host.docker.internal", port) {
		t.Fatal("the host is not reached at all")
	}
	out := dock(t, shared, "run", "--rm", "--privileged", "--network", "host", "busybox", "sh", "-c",
		`for a in 169.254.169.254 169.254.170.2 169.254.1.1 100.100.100.200 168.63.129.16 192.0.0.192 192.168.127.1 0.0.0.1; do
			for p in 80 `+port+`; do timeout 3 nc -w 2 $a $p </dev/null >/dev/null 2>&1 && echo $a:$p; done; done; :`)
	if out != "" {
		t.Errorf("reached: %s", out)
	}
	hyve(t, "set", shared, "host-access=off")
	defer hyve(t, "set", shared, "host-access=on")
	shut := []string{"host.docker.internal"}
	if cards, err := net.InterfaceAddrs(); err == nil {
		for _, card := range cards {
			if p, ok := card.(*net.IPNet); ok && p.IP.To4() != nil && !p.IP.IsLoopback() {
				shut = append(shut, p.IP.String())
			}
		}
	}
	for _, address := range shut {
		if reached(address, port) {
			t.Errorf("with host-access=off %s is reached", address)
		}
	}
	hyve(t, "set", shared, "host-access="+port)
	if !reached("host.docker.internal", port) {
		t.Error("the port that is let through is not reached")
	}
}

// The guest's root says to the supervisor, in the place of PID 1, what he likes. It is heard,
// and costs nothing; what addresses he asks for are not the machine's, and stay the host's.
func TestAttackEvents(t *testing.T) {
	s := statusOf(t, shared)
	log := filepath.Join(home, "machines", shared, "logs", "supervisor.log")
	long := strings.Repeat("x", 20_000)
	lines := []string{
		`{"outOfMemory":{"process":"usurper-%d` + long + `"}}`,
		`{"failed":{"phase":"disk","cause":"usurper-%d` + long + `"}}`,
		`{"log":{"service":"init","line":"usurper-%d"}}`,
		`{"engineReady":{}}`, `{"portClosed":{"id":%d}}`, `{damaged-%d`, "[" + long,
	}
	own, err := netip.ParseAddr(strings.TrimSpace(hyve(t, "ip", shared)))
	if err != nil {
		t.Fatal(err)
	}
	foreign := []string{own.Next().String(), "127.0.0.2", "10.9.8.7", "8.8.8.8", "169.254.169.254", "255.255.255.255", "::ffff:127.0.0.1", "fe80::1"}
	cards, err := net.InterfaceAddrs()
	if err != nil {
		t.Fatal(err)
	}
	for _, card := range cards {
		if p, ok := card.(*net.IPNet); ok && !p.IP.IsLoopback() {
			foreign = append(foreign, p.IP.String())
		}
	}
	const first = 18900 // of the ports
	for i, address := range foreign {
		lines = append(lines, fmt.Sprintf(`{"portOpened":{"id":%%d,"protocol":"tcp","hostIP":%q,"port":%d}}`, address, first+i))
	}
	before, fds := residentMiB(t, s.PID), descriptorsOf(t, s.PID)
	id, n := attackWith(t, shared, "usurper", []string{"--privileged", "--pid", "host"}, append([]string{"5"}, lines...)...)
	bounded(t, "attack-events", residentMiB(t, s.PID)-before, "MiB", 32)
	bounded(t, "attack-events-descriptors", float64(descriptorsOf(t, s.PID)-fds), "descriptors", 16)
	dock(t, shared, "rm", "-f", id)
	text := readFile(t, log)
	t.Logf("%d said, %d heard", n, strings.Count(text, "usurper-"))
	after := statusOf(t, shared)
	problems := strings.Join(after.Problems, "\n")
	if !strings.Contains(problems, "usurper-") && !strings.Contains(problems, "is not this machine's") || strings.Count(text, "usurper-") < 20 {
		t.Errorf("it is not heard: %.500s", problems)
	}
	if len(after.Problems) > 20 || len(problems) > 20*512 {
		t.Errorf("%d problems of %d bytes", len(after.Problems), len(problems))
	}
	for i, address := range foreign {
		port := fmt.Sprint(first + i)
		if refused := fmt.Sprintf("the host's address %q is not this machine's", address); !strings.Contains(strings.ReplaceAll(text, `\"`, `"`), refused) {
			t.Errorf("nothing says that %s is refused", address)
		}
		if l, err := net.Listen("tcp", net.JoinHostPort(address, port)); err == nil {
			l.Close() // it is the host's, and free
		} else if errors.Is(err, syscall.EADDRINUSE) {
			t.Errorf("%s:%s: %v", address, port, err)
		}
		for _, p := range after.Ports {
			if p.Port == first+i {
				t.Errorf("port %d is published on %s", p.Port, p.Address)
			}
		}
	}
	_, said, code := result(t, docker, "--context", "hyve-"+shared, "run", "--rm", "-p", foreign[0]+":18899:80", "busybox", "true")
	if code == 0 || !strings.Contains(said, "is not this machine's") {
		t.Errorf("published on %s: %s", foreign[0], said)
	}
	serves(t, shared)
}

// silentListener is a port of the host that answers nobody: its queue is full.
func silentListener(t *testing.T) (port int) {
	t.Helper()
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	raw, err := l.(*net.TCPListener).SyscallConn()
	if err == nil {
		err = raw.Control(func(fd uintptr) { syscall.Listen(int(fd), 0) })
	}
	if err != nil {
		t.Fatal(err)
	}
	for range 20 {
		conn, err := net.DialTimeout("tcp4", l.Addr().String(), 200*time.Millisecond)
		if err != nil {
			return l.Addr().(*net.TCPAddr).Port
		}
		t.Cleanup(func() { conn.Close() })
	}
	t.Skip("this system answers beyond the queue")
	return 0
}

// unanswered counts the host's connections to a port that are still being made
// (proc_pid_net(5): TCP_SYN_SENT).
func unanswered(t *testing.T, port int) (n int) {
	t.Helper()
	to := fmt.Sprintf("0100007F:%04X", port)
	for line := range strings.Lines(readFile(t, "/proc/net/tcp")) {
		if fields := strings.Fields(line); fields[2] == to && fields[3] == "02" {
			n++
		}
	}
	return n
}

// A container dials a peer that does not answer, more often than there may be dials at one
// time: those are bounded, and another container's are made.
func TestAttackUnansweredDials(t *testing.T) {
	const limit = 1024
	pid := statusOf(t, shared).PID
	before := descriptorsOf(t, pid)
	silent, open := silentListener(t), deafListener(t)
	id, _ := attackFrom(t, shared, nil, "dial", fmt.Sprintf("host.docker.internal:%d", silent), "3000")
	eventually(t, "there are as many dials as there may be", func() bool { return unanswered(t, silent) >= limit*95/100 })
	out := dock(t, shared, "run", "--rm", "busybox", "sh", "-c",
		fmt.Sprintf("s=$(date +%%s); nc -w 20 host.docker.internal %d -e true || exit; echo $(($(date +%%s) - s))", open))
	var seconds float64
	if _, err := fmt.Sscan(out, &seconds); err != nil {
		t.Fatalf("another container's dial: %q", out)
	}
	bounded(t, "attack-dials-other", seconds, "s", 5)
	if n := unanswered(t, silent); n < limit*9/10 {
		t.Errorf("only %d dials are left: it was no attack", n)
	}
	// A connection may be listed twice while others come and go, a descriptor may not.
	bounded(t, "attack-dials", float64(descriptorsOf(t, pid)-before), "descriptors", limit+32)
	serves(t, shared)
	dock(t, shared, "rm", "-f", id)
}

func descriptorsOf(t *testing.T, pid int) int {
	t.Helper()
	entries, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}
