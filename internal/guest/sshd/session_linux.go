package sshd

import (
	"errors"
	"fmt"
	"os"
	"regexp"
	"strings"
	"syscall"

	"github.com/creack/pty"
	"golang.org/x/crypto/ssh"
	"golang.org/x/sys/unix"

	"github.com/hyve-vm/hyve/internal/guest/door"
	"github.com/hyve-vm/hyve/internal/guest/process"
)

// Wire formats of RFC 4254, section 6, and of its terminal modes, section 8.
type (
	ptyRequest struct {
		Term          string
		Columns, Rows uint32
		Width, Height uint32
		Modes         string
	}
	windowChange struct{ Columns, Rows, Width, Height uint32 }
	envRequest   struct{ Name, Value string }
	textRequest  struct{ Text string } // a command, a subsystem's or a signal's name
	exitStatus   struct{ Status uint32 }
	exitSignal   struct {
		Signal     string
		CoreDumped bool
		Message    string
		Language   string
	}
)

// sftpServers are where an SFTP server may be, if the image has one.
var sftpServers = []string{"/usr/lib/openssh/sftp-server", "/usr/lib/sftp-server", "/usr/libexec/sftp-server"}

// environmentNames are the variables that a client may set.
var environmentNames = regexp.MustCompile(`^(LANG|LC_[A-Z]+|TERM|COLORTERM|NO_COLOR|TZ|DOCKER_[A-Z_]+|BUILDKIT_[A-Z_]+|GIT_[A-Z_]+)$`)

// A session is one session channel: at most one program.
type session struct {
	client  *client
	server  *Server // the client's
	channel ssh.Channel
	env     []string
	term    string // TERM of the pty; empty without one
	agent   string // path of the agent's socket; empty without one
	pty     *os.File
	tty     *os.File
	pipes   []*os.File       // the server's ends; none on a terminal
	program *process.Process // nil until one is started
	// unheard is closed when nobody reads the program's output any more.
	unheard  chan struct{}
	deafened bool
	// serve copies between the program and the client. It is called once the
	// client knows that its program runs: a short one would end the channel before.
	serve func()
}

// session serves one session channel to its end.
func (c *client) session(opening ssh.NewChannel) {
	channel, requests, err := opening.Accept()
	if err != nil {
		return
	}
	n := &session{client: c, server: c.server, channel: channel, unheard: make(chan struct{})}
	defer n.close()
	defer door.LogPanic(c.server.Logf)
	for req := range requests {
		err := n.request(req)
		if err != nil {
			c.refuse(quoteName(req.Type), err)
		}
		if req.WantReply {
			req.Reply(err == nil, nil)
		}
		if n.serve != nil {
			n.serve()
			n.serve = nil
		}
	}
	// A client that is gone while its program runs hangs up on it. One that ended
	// by itself may have left others in the background on purpose.
	if n.program != nil && !n.program.Ended() {
		n.program.Signal(syscall.SIGHUP, true)
	}
}

func (n *session) close() {
	n.channel.Close()
	for _, f := range []*os.File{n.pty, n.tty} {
		if f != nil {
			f.Close()
		}
	}
	if p := n.program; p != nil {
		go func() {
			p.Wait() // it may have something to say of a hangup
			for _, f := range n.pipes {
				f.Close() // whoever holds the other ends in the background keeps nothing here
			}
		}()
	}
}

// request does what one request of the session asks. The error is for the log, and for
// the client, which tells its user, that it was not done.
func (n *session) request(req *ssh.Request) error {
	switch req.Type {
	case "pty-req":
		var r ptyRequest
		if err := ssh.Unmarshal(req.Payload, &r); err != nil {
			return err
		}
		return n.openPTY(r)
	case "window-change":
		var r windowChange
		if err := ssh.Unmarshal(req.Payload, &r); err != nil {
			return err
		}
		if n.pty == nil {
			return errors.New("the session has no terminal")
		}
		return setSize(n.pty, r)
	case "env":
		var r envRequest
		if err := ssh.Unmarshal(req.Payload, &r); err != nil {
			return err
		}
		return n.setenv(r)
	case "auth-agent-req@openssh.com":
		return n.openAgent()
	case "shell":
		return n.start(nil)
	case "exec", "subsystem":
		var r textRequest
		if err := ssh.Unmarshal(req.Payload, &r); err != nil {
			return err
		}
		if req.Type == "exec" {
			return n.start([]string{"-c", r.Text})
		}
		return n.startSubsystem(r.Text)
	case "eow@openssh.com": // end of write, of OpenSSH's PROTOCOL
		if !n.deafened {
			n.deafened = true
			close(n.unheard)
		}
		return nil
	case "break": // RFC 4335; on a terminal of this kind it is nothing
		if n.pty == nil {
			return errors.New("the session has no terminal")
		}
		return nil
	case "signal":
		var r textRequest
		if err := ssh.Unmarshal(req.Payload, &r); err != nil {
			return err
		}
		return n.signal(r.Text)
	case "keepalive@openssh.com":
		return nil
	}
	return errUnknownRequest
}

func (n *session) signal(name string) error {
	sig := unix.SignalNum("SIG" + name)
	if sig == 0 {
		return fmt.Errorf("there is no signal %s", quoteName(name))
	}
	if n.program == nil {
		return errors.New("the session runs nothing yet")
	}
	n.program.Signal(sig, true)
	return nil
}

// maxEnvironment bounds the variables that a client may set in a session.
const maxEnvironment = 256

func (n *session) setenv(r envRequest) error {
	switch {
	case n.program != nil:
		return errStarted
	case !environmentNames.MatchString(r.Name):
		return fmt.Errorf("the variable %s is none that this server takes", quoteName(r.Name))
	case strings.ContainsRune(r.Value, 0):
		return fmt.Errorf("the variable %s has a zero byte in it", quoteName(r.Name))
	case len(n.env) >= maxEnvironment:
		return fmt.Errorf("there are %d variables already", len(n.env))
	}
	n.env = append(n.env, r.Name+"="+r.Value)
	return nil
}

// openAgent has the session's programs reach the client's SSH agent. OpenSSH's client
// wants no answer to that, so the user is told here if they do not.
func (n *session) openAgent() error {
	if n.program != nil {
		return errStarted
	}
	socket, err := n.client.agent.open(n.client)
	if err != nil {
		fmt.Fprintf(n.channel.Stderr(), "hyve: the SSH agent is not forwarded: %v\r\n", err)
		return err
	}
	n.agent = socket
	return nil
}

// errStarted is why a session no longer takes what its program would have been told.
var errStarted = errors.New("the session runs a program already")

func (n *session) openPTY(r ptyRequest) error {
	if n.program != nil || n.pty != nil {
		return errStarted
	}
	master, tty, err := pty.Open()
	if err != nil {
		return fmt.Errorf("opening a terminal: %w", err)
	}
	if n.pty, err = nonblocking(master); err != nil {
		tty.Close()
		return fmt.Errorf("opening a terminal: %w", err)
	}
	n.tty, n.term = tty, r.Term
	setSize(n.pty, windowChange{r.Columns, r.Rows, r.Width, r.Height})
	applyModes(tty, r.Modes)
	os.Chown(tty.Name(), int(n.server.Account.UID), -1) // the group is tty, by the mount
	return nil
}
