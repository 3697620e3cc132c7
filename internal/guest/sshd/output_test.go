//go:build linux

package sshd

import (
	"io"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
)

// Nothing of what a program has written is lost on a client that reads it late, long after
// the program has ended. The client's window is 2 MiB.
func TestSSHSlowReader(t *testing.T) {
	_, client := loggedIn(t)
	for name, test := range map[string]struct {
		command        string
		terminal       bool
		stdout, stderr int
	}{
		"stdout":                  {command: "head -c 2150000 /dev/zero", stdout: 2150000},
		"stderr":                  {command: "head -c 2150000 /dev/zero >&2", stderr: 2150000},
		"both":                    {command: "head -c 2150000 /dev/zero & head -c 50000 /dev/zero >&2", stdout: 2150000, stderr: 50000},
		"a terminal":              {command: "head -c 2150000 /dev/zero", terminal: true, stdout: 2150000},
		"a terminal that is held": {command: `(trap "" HUP; exec sleep 60) & head -c 2150000 /dev/zero`, terminal: true, stdout: 2150000},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := sshSession(t, client)
			if test.terminal {
				if err := s.RequestPty("xterm", 24, 80, ssh.TerminalModes{ssh.OPOST: 0}); err != nil {
					t.Skipf("no terminals here: %v", err)
				}
			}
			stdout, _ := s.StdoutPipe()
			stderr, _ := s.StderrPipe()
			if err := s.Start(test.command); err != nil {
				t.Fatal(err)
			}
			time.Sleep(3 * time.Second)
			errors := make(chan int64)
			go func() { n, _ := io.Copy(io.Discard, stderr); errors <- n }()
			n, err := io.Copy(io.Discard, stdout)
			if n != int64(test.stdout) || err != nil {
				t.Errorf("%d bytes of stdout, want %d: %v", n, test.stdout, err)
			}
			if n := <-errors; n != int64(test.stderr) {
				t.Errorf("%d bytes of stderr, want %d", n, test.stderr)
			}
			if err := s.Wait(); err != nil {
				t.Error(err)
			}
		})
	}
}

// What others in the background say on a program's pipes is the session's, as with OpenSSH.
func TestSSHBackground(t *testing.T) {
	_, client := loggedIn(t)
	out, err := sshSession(t, client).Output(`(sleep 3; echo background) & echo front`)
	if err != nil || string(out) != "front\nbackground\n" {
		t.Errorf("%q, %v", out, err)
	}
	// Nobody waits for those that hold none.
	began := time.Now()
	if err := sshSession(t, client).Run("sleep 30 > /dev/null 2>&1 &"); err != nil || time.Since(began) > 10*time.Second {
		t.Errorf("a child that holds nothing: %v after %v", err, time.Since(began))
	}
}

// On a terminal a session ends with its program, whoever else is on it, and even if it
// writes without end.
func TestSSHTerminalThatIsHeld(t *testing.T) {
	_, client := loggedIn(t)
	for _, held := range []string{"sleep 60", "yes"} {
		s := sshSession(t, client)
		if err := s.RequestPty("xterm", 24, 80, ssh.TerminalModes{ssh.OPOST: 0}); err != nil {
			t.Skipf("no terminals here: %v", err)
		}
		began := time.Now()
		out, err := s.Output(`(trap "" HUP; exec ` + held + `) & echo front; exit`)
		if err != nil || !strings.Contains(string(out), "front\n") || time.Since(began) > 1500*time.Millisecond {
			t.Errorf("%s: %d bytes, %v after %v", held, len(out), err, time.Since(began))
		}
	}
}

// A session that its client has left keeps nothing for those that hold its output.
func TestSSHKeepsNoPipes(t *testing.T) {
	_, client := loggedIn(t)
	open := func() (n int) {
		fds, _ := os.ReadDir("/proc/self/fd")
		for _, fd := range fds {
			if at, err := os.Readlink("/proc/self/fd/" + fd.Name()); err == nil && strings.HasPrefix(at, "pipe:") {
				n++
			}
		}
		return n
	}
	before := open()
	s := sshSession(t, client)
	stdout, _ := s.StdoutPipe()
	if err := s.Start(`sleep 60 & echo $!`); err != nil {
		t.Fatal(err)
	}
	pid := make([]byte, 16)
	n, _ := stdout.Read(pid)
	if open() <= before {
		t.Fatal("the test sees no pipes")
	}
	time.Sleep(100 * time.Millisecond) // the shell ends
	s.Close()
	for deadline := time.Now().Add(10 * time.Second); open() > before && time.Now().Before(deadline); {
		time.Sleep(20 * time.Millisecond)
	}
	if n := open(); n > before {
		t.Errorf("%d pipes are open, %d were", n, before)
	}
	sshSession(t, client).Run("kill " + strings.TrimSpace(string(pid[:n])))
}
