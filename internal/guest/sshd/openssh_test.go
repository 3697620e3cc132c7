//go:build linux

package sshd

import (
	"encoding/pem"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/hyve-vm/hyve/internal/guest/account"
	"github.com/hyve-vm/hyve/internal/guest/process"
)

// An openSSH is OpenSSH's own client, logged in to a server of ours whose sessions run as
// an ordinary user where the tests run as root.
type openSSH struct {
	t       *testing.T
	dir     string // the client's
	home    string // the account's, on the server
	address string
	options []string

	mu  sync.Mutex
	log []string
}

func newOpenSSH(t *testing.T) *openSSH {
	t.Helper()
	if _, err := exec.LookPath("ssh"); err != nil {
		t.Skip(err)
	}
	p := newTestKeys(t)
	o := &openSSH{t: t, dir: shortDir(t), home: shortDir(t)}
	a := account.Account{Name: "docker", UID: uint32(os.Getuid()), GID: uint32(os.Getgid()), Home: o.home, Shell: "/bin/sh"}
	if a.UID == 0 {
		a.UID, a.GID = 65534, 65534
		a.Groups = []uint32{65534}
		os.Chown(o.home, 65534, 65534)
	}
	logf := func(format string, args ...any) {
		o.mu.Lock()
		defer o.mu.Unlock()
		o.log = append(o.log, fmt.Sprintf(format, args...))
	}
	s := New(Config{Reaper: testReaper, Logf: logf})
	s.Account = a
	o.address = serve(t, s, p)
	_, port, _ := net.SplitHostPort(o.address)
	block, err := ssh.MarshalPrivateKey(p.userKey, "")
	if err != nil {
		t.Fatal(err)
	}
	key, hosts := filepath.Join(o.dir, "key"), filepath.Join(o.dir, "hosts")
	os.WriteFile(key, pem.EncodeToMemory(block), 0o600)
	os.WriteFile(hosts, []byte("machine "+string(ssh.MarshalAuthorizedKey(p.host))), 0o600)
	o.options = []string{"-F", "/dev/null"}
	for _, option := range []string{"IdentityFile=" + key, "IdentitiesOnly=yes", "UserKnownHostsFile=" + hosts, "HostKeyAlias=machine",
		"StrictHostKeyChecking=yes", "Port=" + port, "User=docker", "BatchMode=yes", "HostName=127.0.0.1"} {
		o.options = append(o.options, "-o", option)
	}
	return o
}

// shortDir is a directory whose path is short enough for sockets, and that anybody may enter.
func shortDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/tmp", "hy")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	os.Chmod(dir, 0o755)
	return dir
}

// run runs a program to its end and returns what it printed on both.
func (o *openSSH) run(env []string, name string, args ...string) (string, int) {
	o.t.Helper()
	p, out := o.start(env, name, args...)
	select {
	case <-p.Done:
	case <-time.After(time.Minute):
		p.Signal(syscall.SIGKILL, false)
		o.t.Fatalf("%s %q does not end: %s", name, args, readText(out))
	}
	return readText(out), p.Wait().ExitStatus()
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

func readText(path string) string {
	b, _ := os.ReadFile(path)
	return string(b)
}

// start starts a program, which is the reaper's as every child here is.
func (o *openSSH) start(env []string, name string, args ...string) (*process.Process, string) {
	o.t.Helper()
	out, err := os.CreateTemp(o.dir, "out")
	if err != nil {
		o.t.Fatal(err)
	}
	defer out.Close()
	null, _ := os.Open(os.DevNull)
	defer null.Close()
	p, err := testReaper.Start(append([]string{name}, args...), &os.ProcAttr{
		Env: append(env, "PATH="+os.Getenv("PATH"), "HOME="+o.dir), Files: []*os.File{null, out, out}, Dir: o.dir})
	if err != nil {
		o.t.Fatal(err)
	}
	o.t.Cleanup(func() {
		p.Signal(syscall.SIGKILL, false)
		p.Wait()
	})
	return p, out.Name()
}

// ssh runs a command in the machine with those options of the client.
func (o *openSSH) ssh(env []string, options []string, command ...string) (string, int) {
	o.t.Helper()
	return o.run(env, "ssh", append(append(append([]string{}, o.options...), options...), append([]string{"machine"}, command...)...)...)
}

func (o *openSSH) logged(want string) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, line := range o.log {
		if strings.Contains(line, want) {
			return true
		}
	}
	return false
}

func TestOpenSSHAgent(t *testing.T) {
	o := newOpenSSH(t)
	agent := filepath.Join(o.dir, "agent")
	o.start(nil, "ssh-agent", "-D", "-a", agent)
	eventually(t, func() bool { return listens(agent) })
	env := []string{"SSH_AUTH_SOCK=" + agent}
	if out, code := o.run(env, "ssh-add", filepath.Join(o.dir, "key")); code != 0 {
		t.Fatal(out)
	}
	keys, _ := o.run(env, "ssh-add", "-L")
	out, code := o.ssh(env, []string{"-A"}, `ssh-add -L; echo $SSH_AUTH_SOCK; stat -c '%a %u %F' $SSH_AUTH_SOCK $(dirname $SSH_AUTH_SOCK)`)
	lines := strings.Split(strings.TrimSpace(out), "\n")
	if code != 0 || len(lines) != 4 || lines[0] != strings.TrimSpace(keys) {
		t.Fatalf("exit status %d: %s", code, out)
	}
	uid := os.Getuid()
	if uid == 0 {
		uid = 65534
	}
	if lines[2] != fmt.Sprintf("600 %d socket", uid) || lines[3] != fmt.Sprintf("700 %d directory", uid) {
		t.Errorf("the socket is %q in a %q", lines[2], lines[3])
	}
	eventually(t, func() bool { return !exists(filepath.Dir(lines[1])) })
	// Two sessions of one connection have one.
	if out, code := o.ssh(env, nil, `echo "<$SSH_AUTH_SOCK>"`); code != 0 || out != "<>\n" {
		t.Errorf("without -A: %d, %q", code, out)
	}
}

// echo answers on a listener with what it hears, in capitals.
func echo(t *testing.T, network, address string) net.Listener {
	t.Helper()
	l, err := net.Listen(network, address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				b := make([]byte, 64)
				n, _ := conn.Read(b)
				conn.Write([]byte(strings.ToUpper(string(b[:n]))))
			}()
		}
	}()
	return l
}

// says is what an echo at an address says, if anything.
func says(network, address string) string {
	conn, err := net.Dial(network, address)
	if err != nil {
		return err.Error()
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(10 * time.Second))
	conn.Write([]byte("word"))
	b := make([]byte, 64)
	n, _ := conn.Read(b)
	return string(b[:n])
}

// listens reports whether somebody listens at a socket: a file that bind has just made
// still refuses.
func listens(path string) bool {
	conn, err := net.Dial("unix", path)
	if err == nil {
		conn.Close()
	}
	return err == nil
}

func unusedPort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, port, _ := net.SplitHostPort(l.Addr().String())
	return port
}

func TestOpenSSHForwards(t *testing.T) {
	o := newOpenSSH(t)
	tcp := echo(t, "tcp", "127.0.0.1:0").Addr().String()
	unix := echo(t, "unix", filepath.Join(o.home, "there")).Addr().String()
	os.Chmod(unix, 0o666)
	for _, direction := range []string{"-L", "-R"} {
		for _, from := range []string{"tcp", "unix"} {
			for _, to := range []string{tcp, unix} {
				at := unusedPort(t)
				address := "127.0.0.1:" + at
				if from == "unix" {
					at = filepath.Join(o.home, "made")
					if direction == "-L" {
						at = filepath.Join(o.dir, "made")
					}
					address = at
				}
				p, out := o.start(nil, "ssh", append(append([]string{}, o.options...), "-N", "-o", "ExitOnForwardFailure=yes", direction, at+":"+to, "machine")...)
				eventually(t, func() bool {
					conn, err := net.Dial(from, address)
					if err == nil {
						conn.Close()
					}
					return err == nil || p.Ended()
				})
				if said := says(from, address); said != "WORD" {
					t.Errorf("%s %s:%s: %q, %s", direction, at, to, said, readText(out))
				}
				if info, err := os.Stat(address); from == "unix" && direction == "-R" {
					if err != nil || info.Mode().Perm() != 0o600 || os.Getuid() == 0 && info.Sys().(*syscall.Stat_t).Uid != 65534 {
						t.Errorf("the socket is %v, %v", info, err)
					}
				}
				p.Signal(syscall.SIGTERM, false)
				p.Wait()
				if direction == "-L" && from == "unix" {
					os.Remove(address) // which the client leaves
				}
				eventually(t, func() bool { _, err := net.Dial(from, address); return err != nil })
				if direction == "-R" && from == "unix" {
					eventually(t, func() bool { return !exists(address) })
				}
			}
		}
	}
}

// A port that is forwarded to the client is one of the loopback, whatever address is asked
// for: on another one hyve would publish it.
func TestOpenSSHForwardsToLoopback(t *testing.T) {
	o := newOpenSSH(t)
	to := echo(t, "tcp", "127.0.0.1:0").Addr().String()
	for _, host := range []string{"", "*", "0.0.0.0", "127.0.0.2", "localhost", "no.such.name"} {
		port := unusedPort(t)
		p, out := o.start(nil, "ssh", append(append([]string{}, o.options...), "-N", "-o", "ExitOnForwardFailure=yes", "-R", host+":"+port+":"+to, "machine")...)
		eventually(t, func() bool { return says("tcp", "127.0.0.1:"+port) == "WORD" || p.Ended() })
		if said := says("tcp", "127.0.0.1:"+port); said != "WORD" {
			t.Errorf("%q: %q, %s", host, said, readText(out))
		}
		if conn, err := net.Dial("tcp", "127.0.0.2:"+port); err == nil {
			conn.Close()
			t.Errorf("%q: it listens beyond the loopback's own address", host)
		}
		p.Signal(syscall.SIGTERM, false)
		p.Wait()
	}
}

// What is forwarded is so with the rights of the user who logs in.
func TestOpenSSHForwardsAsTheUser(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("there is one user only")
	}
	o := newOpenSSH(t)
	theirs := filepath.Join(o.dir, "root")
	os.Mkdir(theirs, 0o755)
	out, code := o.ssh(nil, []string{"-o", "ExitOnForwardFailure=yes", "-R", filepath.Join(theirs, "s") + ":/nowhere"}, "true")
	if code == 0 || !strings.Contains(out, "remote port forwarding failed") || exists(filepath.Join(theirs, "s")) {
		t.Errorf("listening where only root may: %d, %s", code, out)
	}
	if !o.logged("permission denied") {
		t.Errorf("the log does not say why: %q", o.log)
	}
	private := echo(t, "unix", filepath.Join(theirs, "private")).Addr().String()
	os.Chmod(private, 0o600)
	at := filepath.Join(o.dir, "at")
	_, printed := o.start(nil, "ssh", append(append([]string{}, o.options...), "-N", "-L", at+":"+private, "machine")...)
	eventually(t, func() bool { return listens(at) })
	eventually(t, func() bool { return strings.Contains(readText(printed), "permission denied") })
	if err := (account.Account{UID: 65534, GID: 65534}).As(func() error { return nil }); err != nil || os.Geteuid() != 0 {
		t.Errorf("root is not root any more: %v", err)
	}
}

// A file that took the place of a forwarded socket is not removed with it.
func TestOpenSSHLeavesOthersFiles(t *testing.T) {
	o := newOpenSSH(t)
	socket := filepath.Join(o.home, "s")
	if out, code := o.ssh(nil, []string{"-R", socket + ":/nowhere"}, "rm "+socket+"; echo mine > "+socket); code != 0 {
		t.Fatal(out)
	}
	time.Sleep(100 * time.Millisecond)
	if text := readText(socket); text != "mine\n" {
		t.Errorf("it is %q", text)
	}
	if out, _ := o.ssh(nil, []string{"-R", socket + ":/nowhere"}, "true"); !strings.Contains(out, "Warning: remote port forwarding failed") {
		t.Errorf("a socket where a file is: %s", out)
	}
}

// Whatever is refused is said: by the client, or else in the log.
func TestOpenSSHRefusals(t *testing.T) {
	o := newOpenSSH(t)
	for name, test := range map[string]struct {
		env, options []string
		command      string
		printed, log string
	}{
		"X11": {env: []string{"DISPLAY=:7"}, options: []string{"-X", "-o", "ForwardX11Timeout=0"}, command: "true",
			printed: "X11 forwarding request failed", log: `"x11-req"`},
		"a subsystem":   {options: []string{"-s"}, command: "netconf", printed: "subsystem request failed", log: `there is no subsystem "netconf"`},
		"a variable":    {options: []string{"-o", "SetEnv=LD_PRELOAD=/x"}, command: "true", log: `the variable "LD_PRELOAD"`},
		"a closed port": {options: []string{"-W", "127.0.0.1:1"}, printed: "connection refused"},
		"a taken port":  {options: []string{"-R", o.address + ":/x"}, command: "true", printed: "remote port forwarding failed", log: "address already in use"},
	} {
		var command []string
		if test.command != "" {
			command = []string{test.command}
		}
		out, _ := o.ssh(test.env, test.options, command...)
		if !strings.Contains(out, test.printed) {
			t.Errorf("%s: the client prints %q", name, out)
		}
		if test.log != "" && !o.logged(test.log) {
			t.Errorf("%s: the log is %q", name, o.log)
		}
	}
}

func TestOpenSSHSessions(t *testing.T) {
	o := newOpenSSH(t)
	env := []string{"LANG=de_DE.UTF-8", "LC_TIME=C", "TERM=xterm-test"}
	if out, code := o.ssh(env, []string{"-o", "SendEnv=LANG LC_*"}, "echo $LANG $LC_TIME"); code != 0 || out != "de_DE.UTF-8 C\n" {
		t.Errorf("variables: %d, %q", code, out)
	}
	if out, _ := o.ssh(nil, nil, "echo ${SSH_CONNECTION%% *} ${SSH_CLIENT##* }; exit 7"); !strings.HasPrefix(out, "127.0.0.1 ") {
		t.Errorf("where it comes from: %q", out)
	}
	if _, code := o.ssh(nil, nil, "exit 7"); code != 7 {
		t.Errorf("exit status %d", code)
	}
	if _, code := o.ssh(nil, nil, "kill -TERM $$"); code != 255 {
		t.Errorf("exit status %d of a program that was killed", code)
	}
	if out, code := o.ssh(env, []string{"-tt"}, "tty; echo $TERM"); code != 0 || !strings.Contains(out, "/dev/pts/") || !strings.Contains(out, "xterm-test") {
		t.Errorf("a terminal: %d, %q", code, out)
	}
	if out, code := o.ssh(nil, []string{"-o", "ServerAliveInterval=1", "-o", "ServerAliveCountMax=1"}, "sleep 3; echo alive"); code != 0 || out != "alive\n" {
		t.Errorf("a client that asks whether we live: %d, %q", code, out)
	}
	// Several sessions over one connection.
	control := filepath.Join(o.dir, "control")
	p, _ := o.start(nil, "ssh", append(append([]string{}, o.options...), "-MN", "-S", control, "machine")...)
	eventually(t, func() bool { return listens(control) })
	for range 3 {
		if out, code := o.ssh(nil, []string{"-S", control}, "echo over"); code != 0 || out != "over\n" {
			t.Errorf("a session beside others: %d, %q", code, out)
		}
	}
	p.Signal(syscall.SIGTERM, false)
}

func TestOpenSSHCopies(t *testing.T) {
	o := newOpenSSH(t)
	content := strings.Repeat("0123456789abcdef", 1<<15)
	os.WriteFile(filepath.Join(o.dir, "file"), []byte(content), 0o644)
	for name, args := range map[string][]string{
		"scp":   append(append([]string{"-O"}, o.options...), "file", "machine:legacy"),
		"rsync": {"-a", "-e", "ssh " + strings.Join(o.options, " "), "file", "machine:synced"},
	} {
		if _, err := exec.LookPath(name); err != nil {
			t.Skip(err)
		}
		out, code := o.run(nil, name, args...)
		to := args[len(args)-1][len("machine:"):]
		if text := readText(filepath.Join(o.home, to)); code != 0 || text != content {
			t.Errorf("%s: exit status %d, %d bytes: %s", name, code, len(text), out)
		}
	}
	if out, code := o.run(nil, "scp", append(append([]string{"-O"}, o.options...), "machine:legacy", "back")...); code != 0 || readText(filepath.Join(o.dir, "back")) != content {
		t.Errorf("scp back: %d, %s", code, out)
	}
}

func eventually(t *testing.T, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !ok(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("in vain")
		}
	}
}

// OpenSSH's client, too, has all of the output that is read late, and the program's status.
func TestOpenSSHSlowReader(t *testing.T) {
	o := newOpenSSH(t)
	for _, options := range []string{"-T", "-tt"} {
		args := append([]string{"-c", `(ssh "$@"; echo $? >&2) | (sleep 4; wc -c)`, "sh", options}, o.options...)
		args = append(args, "machine", "stty -opost 2>/dev/null; (trap '' HUP; sleep 2) & head -c 2200000 /dev/zero; exit 7")
		if out, _ := o.run(nil, "sh", args...); !strings.Contains(out, "2200000\n") || !strings.Contains(out, "7\n") {
			t.Errorf("%s: %q", options, out)
		}
	}
}
