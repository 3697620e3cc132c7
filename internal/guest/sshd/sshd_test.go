//go:build linux

package sshd

import (
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"os/signal"
	"os/user"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/sys/unix"

	"github.com/hyve-vm/hyve/internal/guest/account"
)

// startSSH starts a server whose sessions run as the current user.
func startSSH(t *testing.T, keys *testKeys) (*Server, string) {
	t.Helper()
	a := account.Account{Name: "docker", UID: uint32(os.Getuid()), GID: uint32(os.Getgid()), Home: t.TempDir(), Shell: "/bin/sh"}
	s := New(Config{Reaper: testReaper, Logf: t.Logf, Environment: func() []string { return []string{"HTTP_PROXY=http://p"} }})
	s.Account = a
	return s, serve(t, s, keys)
}

// serve lets clients of a machine with these keys in, and returns where.
func serve(t *testing.T, s *Server, keys *testKeys) (address string) {
	t.Helper()
	if err := s.Identify(keys.identity()); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go s.Serve(l)
	return l.Addr().String()
}

func dialSSH(address, name string, keys *testKeys, by ...ssh.Signer) (*ssh.Client, error) {
	return ssh.Dial("tcp", address, &ssh.ClientConfig{
		User: name, Auth: []ssh.AuthMethod{ssh.PublicKeys(by...), ssh.Password("tcuser")},
		HostKeyCallback: ssh.FixedHostKey(keys.host), Timeout: 10 * time.Second})
}

// loggedIn is a server and a client of its user.
func loggedIn(t *testing.T) (*Server, *ssh.Client) {
	t.Helper()
	keys := newTestKeys(t)
	s, address := startSSH(t, keys)
	client, err := dialSSH(address, "docker", keys, keys.user)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close() })
	return s, client
}

func sshSession(t *testing.T, client *ssh.Client) *ssh.Session {
	t.Helper()
	s, err := client.NewSession()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func TestSSHLetsIn(t *testing.T) {
	keys, other := newTestKeys(t), newTestKeys(t)
	s, address := startSSH(t, keys)
	for name, test := range map[string]struct {
		user string
		key  ssh.Signer
		ok   bool
	}{
		"its user":    {"docker", keys.user, true},
		"root":        {"root", keys.user, false},
		"another key": {"docker", other.user, false},
	} {
		client, err := dialSSH(address, test.user, keys, test.key)
		if (err == nil) != test.ok {
			t.Errorf("%s: %v", name, err)
		}
		if client != nil {
			client.Close()
		}
	}
	if err := s.Identify(other.identity()); err != nil {
		t.Fatal(err)
	}
	if _, err := dialSSH(address, "docker", other, other.user); err != nil {
		t.Errorf("after another identity: %v", err)
	}
	if _, err := dialSSH(address, "docker", other, keys.user); err == nil {
		t.Error("after another identity the first one's user is let in")
	}
	bad := keys.identity()
	bad.AuthorizedKeys = []string{"ssh-ed25519 nonsense"}
	if s.Identify(bad) == nil {
		t.Error("a broken key is taken")
	}
}

// Who says nothing, or no SSH, is let go of when the door's patience ends.
func TestSSHSilentClients(t *testing.T) {
	s, _ := startSSH(t, newTestKeys(t))
	for _, said := range []string{"", "GET / HTTP/1.0\r\n\r\n"} {
		client, server := net.Pipe()
		go io.WriteString(client, said)
		go io.Copy(io.Discard, client)
		server.SetDeadline(time.Now().Add(100 * time.Millisecond))
		if s.handle(server) != nil {
			t.Errorf("a client that says %q is let in", said)
		}
		client.Close()
	}
}

func TestSSHExec(t *testing.T) {
	server, client := loggedIn(t)

	out, err := sshSession(t, client).Output(`echo "$HOME $USER $HTTP_PROXY"; pwd; echo err >&2`)
	home := server.Account.Home
	if err != nil || string(out) != home+" docker http://p\n"+home+"\n" {
		t.Errorf("%q, %v", out, err)
	}
	var exit *ssh.ExitError
	if err := sshSession(t, client).Run("exit 7"); !errors.As(err, &exit) || exit.ExitStatus() != 7 {
		t.Errorf("exit 7 gives %v", err)
	}
	if err := sshSession(t, client).Run("kill -TERM $$"); !errors.As(err, &exit) || exit.Signal() != "TERM" {
		t.Errorf("a killed shell gives %v", err)
	}

	s := sshSession(t, client)
	if err := s.Setenv("LC_ALL", "x.y"); err != nil {
		t.Error(err)
	}
	if err := s.Setenv("LD_PRELOAD", "/x"); err == nil {
		t.Error("LD_PRELOAD is taken")
	}
	big := bytes.Repeat([]byte("0123456789abcdef"), 1<<16)
	s.Stdin = bytes.NewReader(big) // its end ends cat
	if out, err := s.Output("cat; printf $LC_ALL"); err != nil || !bytes.Equal(out, append(big, "x.y"...)) {
		t.Errorf("%d bytes came back, %v", len(out), err)
	}

	s = sshSession(t, client)
	stdout, _ := s.StdoutPipe()
	s.Start("trap 'echo got; exit 3' USR1; echo ready; while :; do sleep 0.05; done")
	io.ReadFull(stdout, make([]byte, len("ready\n")))
	s.Signal(ssh.SIGUSR1)
	rest, _ := io.ReadAll(stdout)
	if err := s.Wait(); string(rest) != "got\n" || !errors.As(err, &exit) || exit.ExitStatus() != 3 {
		t.Errorf("after a signal: %q, %v", rest, err)
	}
}

func TestSSHDisconnectHangsUp(t *testing.T) {
	// What nohup starts ignores the signal, and so does what that starts.
	hangups := make(chan os.Signal, 1)
	signal.Notify(hangups, unix.SIGHUP)
	defer signal.Stop(hangups)
	_, client := loggedIn(t)
	fifo := filepath.Join(t.TempDir(), "fifo")
	if err := unix.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	s := sshSession(t, client)
	stdout, _ := s.StdoutPipe()
	s.Start("trap 'echo hup > " + fifo + "; exit' HUP; echo ready; while :; do sleep 0.05; done")
	got := make(chan string)
	go func() { b, _ := os.ReadFile(fifo); got <- string(b) }()
	io.ReadFull(stdout, make([]byte, len("ready\n")))
	client.Close()
	select {
	case b := <-got:
		if b != "hup\n" {
			t.Errorf("the program says %q", b)
		}
	case <-time.After(10 * time.Second):
		t.Error("the program runs on after its client is gone")
	}
}

// A program whose output nobody reads any more ends when it writes, as in a pipeline.
func TestSSHUnheard(t *testing.T) {
	_, client := loggedIn(t)
	s := sshSession(t, client)
	out, err := s.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Start("exec yes"); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(out, make([]byte, 2)); err != nil {
		t.Fatal(err)
	}
	for range 2 { // whoever says it twice is no threat
		if _, err := s.SendRequest("eow@openssh.com", false, nil); err != nil {
			t.Fatal(err)
		}
	}
	go io.Copy(io.Discard, out) // what was on its way
	ended := make(chan error, 1)
	go func() { ended <- s.Wait() }()
	select {
	case err := <-ended:
		if exit := (*ssh.ExitError)(nil); !errors.As(err, &exit) || exit.Signal() != "PIPE" {
			t.Errorf("it ended with %v", err)
		}
	case <-time.After(30 * time.Second):
		t.Error("it goes on")
	}
}

func TestSSHTerminal(t *testing.T) {
	keys := newTestKeys(t)
	server, address := startSSH(t, keys)
	if u, err := user.Current(); err == nil && u.Uid == "0" {
		server.Account.Shell = "/bin/sh"
	}
	client, err := dialSSH(address, "docker", keys, keys.user)
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	s := sshSession(t, client)
	if err := s.RequestPty("xterm-test", 24, 80, ssh.TerminalModes{ssh.ECHO: 0, ssh.OPOST: 0}); err != nil {
		t.Skipf("no terminals here: %v", err)
	}
	stdin, _ := s.StdinPipe()
	stdout, _ := s.StdoutPipe()
	if err := s.Shell(); err != nil {
		t.Fatal(err)
	}
	if err := s.WindowChange(50, 132); err != nil {
		t.Error(err)
	}
	time.Sleep(50 * time.Millisecond)
	io.WriteString(stdin, "stty size; echo $TERM; echo $0; tty; exit 5\n")
	out, _ := io.ReadAll(stdout)
	var exit *ssh.ExitError
	if err := s.Wait(); !errors.As(err, &exit) || exit.ExitStatus() != 5 {
		t.Errorf("the shell ends with %v", err)
	}
	for _, want := range []string{"50 132\n", "xterm-test\n", "-sh\n", "/dev/pts/"} {
		if !strings.Contains(string(out), want) {
			t.Errorf("no %q in %q", want, out)
		}
	}
	if strings.Contains(string(out), "stty size;") {
		t.Errorf("the terminal echoes: %q", out)
	}
}

func TestSSHForwards(t *testing.T) {
	_, client := loggedIn(t)
	socket := filepath.Join(t.TempDir(), "s")
	for network, at := range map[string]string{"tcp": "127.0.0.1:0", "unix": socket} {
		l, err := net.Listen(network, at)
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		go func() {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			b, _ := io.ReadAll(conn) // needs the half-close
			conn.Write(bytes.ToUpper(b))
			conn.Close()
		}()
		conn, err := client.Dial(network, l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		io.WriteString(conn, "forth")
		conn.(interface{ CloseWrite() error }).CloseWrite()
		if b, err := io.ReadAll(conn); string(b) != "FORTH" {
			t.Errorf("%s: %q, %v", network, b, err)
		}
	}
	if _, err := client.Dial("tcp", "127.0.0.1:1"); err == nil {
		t.Error("a closed port answers")
	}
	if _, _, err := client.OpenChannel("tun@openssh.com", nil); err == nil || !strings.Contains(err.Error(), "no such channels") {
		t.Errorf("a tunnel: %v", err)
	}

	l, err := client.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		conn, err := l.Accept()
		if err == nil {
			io.WriteString(conn, "back")
			conn.Close()
		}
	}()
	conn, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	if b, err := io.ReadAll(conn); string(b) != "back" {
		t.Errorf("a reverse forward gives %q, %v", b, err)
	}
	l.Close()
	client.Close()
	time.Sleep(20 * time.Millisecond)
	if _, err := net.Dial("tcp", l.Addr().String()); err == nil {
		t.Error("a reverse forward outlives its client")
	}
}

func FuzzSetModes(f *testing.F) {
	f.Add("\x35\x00\x00\x00\x01\x00")
	f.Fuzz(func(t *testing.T, modes string) { setModes(&unix.Termios{}, modes) })
}
