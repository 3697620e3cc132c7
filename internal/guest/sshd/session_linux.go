package sshd

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"time"

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
		return pty.Setsize(n.pty, winsize(r))
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

func winsize(w windowChange) *pty.Winsize {
	const most = 1<<16 - 1
	return &pty.Winsize{
		Rows: uint16(min(w.Rows, most)), Cols: uint16(min(w.Columns, most)),
		X: uint16(min(w.Width, most)), Y: uint16(min(w.Height, most)),
	}
}

func (n *session) openPTY(r ptyRequest) error {
	if n.program != nil || n.pty != nil {
		return errStarted
	}
	master, tty, err := pty.Open()
	if err != nil {
		return fmt.Errorf("opening a terminal: %w", err)
	}
	n.pty, n.tty, n.term = master, tty, r.Term
	pty.Setsize(master, winsize(windowChange{r.Columns, r.Rows, r.Width, r.Height}))
	applyModes(tty, r.Modes)
	os.Chown(tty.Name(), int(n.server.Account.UID), -1) // the group is tty, by the mount
	return nil
}

func (n *session) startSubsystem(name string) error {
	if name != "sftp" {
		return fmt.Errorf("there is no subsystem %s", quoteName(name))
	}
	for _, path := range sftpServers {
		if _, err := os.Stat(path); err == nil {
			return n.run(path, []string{filepath.Base(path)})
		}
	}
	return errors.New("the image has no SFTP server")
}

// start starts the account's shell, as a login shell if it has no arguments.
func (n *session) start(args []string) error {
	shell := n.server.Account.Shell
	name := filepath.Base(shell)
	if args == nil {
		name = "-" + name
	}
	return n.run(shell, append([]string{name}, args...))
}

func (n *session) run(path string, argv []string) error {
	if n.program != nil {
		return errStarted
	}
	err := n.launch(path, argv)
	if err != nil {
		fmt.Fprintf(n.channel.Stderr(), "hyve: %v\r\n", err)
	}
	return err
}

// launch starts the program and sets serve.
func (n *session) launch(path string, argv []string) error {
	s := n.server
	attr := &os.ProcAttr{Dir: "/", Env: n.environment(), Sys: &syscall.SysProcAttr{Setsid: true}}
	if _, err := os.Stat(s.Account.Home); err == nil {
		attr.Dir = s.Account.Home
	}
	if os.Geteuid() == 0 {
		attr.Sys.Credential = &syscall.Credential{Uid: s.Account.UID, Gid: s.Account.GID, Groups: s.Account.Groups}
	}
	if s.Cgroup != "" {
		dir, err := os.MkdirTemp(s.Cgroup, "session-")
		if err != nil {
			return fmt.Errorf("starting a session: %w", err)
		}
		f, err := os.Open(dir)
		if err != nil {
			return fmt.Errorf("starting a session: %w", err)
		}
		defer f.Close()
		attr.Sys.UseCgroupFD, attr.Sys.CgroupFD = true, int(f.Fd())
		// An empty group goes with the session; what was left running in the
		// background keeps it.
		defer func() {
			if p := n.program; p != nil {
				go func() { p.Wait(); os.Remove(dir) }()
			}
		}()
	}
	if n.pty != nil {
		return n.launchOnTerminal(path, argv, attr)
	}
	return n.launchOnPipes(path, argv, attr)
}

func (n *session) launchOnTerminal(path string, argv []string, attr *os.ProcAttr) error {
	attr.Files = []*os.File{n.tty, n.tty, n.tty}
	attr.Sys.Setctty, attr.Sys.Ctty = true, 0
	p, err := n.server.Reaper.StartFile(path, argv, attr)
	if err != nil {
		return err
	}
	n.program = p
	n.tty.Close()
	n.tty = nil
	n.serve = func() {
		go io.Copy(n.pty, n.channel)
		output := make(chan struct{})
		go func() {
			defer close(output)
			io.Copy(n.channel, n.pty) // ends with EIO when the last program on it has ended
		}()
		go n.finish(p, output)
	}
	return nil
}

func (n *session) launchOnPipes(path string, argv []string, attr *os.ProcAttr) error {
	var ends [3][2]*os.File // of stdin, stdout and stderr: to read, to write
	defer func() {
		for i, e := range ends {
			if f := e[min(i, 1)]; f != nil {
				f.Close() // the child's
			}
		}
	}()
	for i := range ends {
		r, w, err := os.Pipe()
		if err != nil {
			return fmt.Errorf("starting a session: %w", err)
		}
		ends[i] = [2]*os.File{r, w}
	}
	attr.Files = []*os.File{ends[0][0], ends[1][1], ends[2][1]}
	p, err := n.server.Reaper.StartFile(path, argv, attr)
	stdin, stdout, stderr := ends[0][1], ends[1][0], ends[2][0]
	if err != nil {
		stdin.Close()
		stdout.Close()
		stderr.Close()
		return err
	}
	n.program = p
	n.serve = func() {
		go func() {
			io.Copy(stdin, n.channel)
			stdin.Close()
		}()
		output := make(chan struct{})
		go func() {
			defer close(output)
			var both sync.WaitGroup
			heard := make(chan struct{})
			go func() { defer close(heard); io.Copy(n.channel, stdout) }()
			both.Go(func() {
				select {
				case <-heard:
				case <-n.unheard: // the program is to notice when it writes more
				}
				stdout.Close()
			})
			both.Go(func() { io.Copy(n.channel.Stderr(), stderr); stderr.Close() })
			both.Wait()
		}()
		go n.finish(p, output)
	}
	return nil
}

// lingering is how long output is waited for after the program has ended: a
// child in the background may hold its pipe or terminal open for ever.
const lingering = 2 * time.Second

// finish tells the client how the program ended.
func (n *session) finish(p *process.Process, output <-chan struct{}) {
	status := p.Wait()
	select {
	case <-output:
	case <-time.After(lingering):
	}
	if status.Signaled() {
		name := strings.TrimPrefix(unix.SignalName(status.Signal()), "SIG")
		n.channel.SendRequest("exit-signal", false, ssh.Marshal(exitSignal{
			Signal: name, CoreDumped: status.CoreDump(), Message: status.Signal().String()}))
	} else {
		n.channel.SendRequest("exit-status", false, ssh.Marshal(exitStatus{uint32(status.ExitStatus())}))
	}
	n.channel.CloseWrite()
	n.channel.Close()
}

// environment is that of a login.
func (n *session) environment() []string {
	a := n.server.Account
	env := []string{
		process.Path, "HOME=" + a.Home, "USER=" + a.Name, "LOGNAME=" + a.Name, "SHELL=" + a.Shell,
		"LANG=C.UTF-8", "MAIL=/var/mail/" + a.Name,
	}
	if n.server.Environment != nil {
		env = append(env, n.server.Environment()...)
	}
	env = append(env, n.env...)
	env = append(env, n.client.addresses()...)
	if n.agent != "" {
		env = append(env, "SSH_AUTH_SOCK="+n.agent)
	}
	if n.term != "" {
		env = append(env, "TERM="+n.term, "SSH_TTY="+n.tty.Name())
	}
	return env
}
