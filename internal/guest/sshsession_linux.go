package guest

import (
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
	server  *sshServer
	channel ssh.Channel
	env     []string
	term    string // TERM of the pty; empty without one
	pty     *os.File
	tty     *os.File
	program *process // nil until one is started
	// unheard is closed when nobody reads the program's output any more.
	unheard  chan struct{}
	deafened bool
	// serve copies between the program and the client. It is called once the
	// client knows that its program runs: a short one would end the channel before.
	serve func()
}

// session serves one session channel to its end.
func (s *sshServer) session(c ssh.NewChannel) {
	channel, requests, err := c.Accept()
	if err != nil {
		return
	}
	n := &session{server: s, channel: channel, unheard: make(chan struct{})}
	defer n.close()
	defer logPanic(s.logf)
	for req := range requests {
		ok := n.request(req)
		if req.WantReply {
			req.Reply(ok, nil)
		}
		if n.serve != nil {
			n.serve()
			n.serve = nil
		}
	}
	// A client that is gone while its program runs hangs up on it. One that ended
	// by itself may have left others in the background on purpose.
	if n.program != nil && !n.program.ended() {
		n.program.signal(syscall.SIGHUP, true)
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

func (n *session) request(req *ssh.Request) bool {
	switch req.Type {
	case "pty-req":
		var r ptyRequest
		return n.program == nil && n.pty == nil && ssh.Unmarshal(req.Payload, &r) == nil && n.openPTY(r) == nil
	case "window-change":
		var r windowChange
		if n.pty == nil || ssh.Unmarshal(req.Payload, &r) != nil {
			return false
		}
		return pty.Setsize(n.pty, winsize(r)) == nil
	case "env":
		var r envRequest
		if n.program != nil || ssh.Unmarshal(req.Payload, &r) != nil || !environmentNames.MatchString(r.Name) || strings.Contains(r.Value, "\x00") {
			return false
		}
		n.env = append(n.env, r.Name+"="+r.Value)
		return true
	case "shell":
		return n.start(nil)
	case "exec":
		var r textRequest
		return ssh.Unmarshal(req.Payload, &r) == nil && n.start([]string{"-c", r.Text})
	case "subsystem":
		var r textRequest
		return ssh.Unmarshal(req.Payload, &r) == nil && r.Text == "sftp" && n.startSFTP()
	case "eow@openssh.com": // end of write, of OpenSSH's PROTOCOL
		if !n.deafened {
			n.deafened = true
			close(n.unheard)
		}
		return true
	case "signal":
		var r textRequest
		sig := unix.SignalNum("SIG" + signalName(req, &r))
		if sig == 0 || n.program == nil {
			return false
		}
		n.program.signal(sig, true)
		return true
	}
	return false
}

func signalName(req *ssh.Request, r *textRequest) string {
	if ssh.Unmarshal(req.Payload, r) != nil {
		return ""
	}
	return r.Text
}

func winsize(w windowChange) *pty.Winsize {
	const most = 1<<16 - 1
	return &pty.Winsize{
		Rows: uint16(min(w.Rows, most)), Cols: uint16(min(w.Columns, most)),
		X: uint16(min(w.Width, most)), Y: uint16(min(w.Height, most)),
	}
}

func (n *session) openPTY(r ptyRequest) error {
	master, tty, err := pty.Open()
	if err != nil {
		return fmt.Errorf("opening a terminal: %w", err)
	}
	n.pty, n.tty, n.term = master, tty, r.Term
	pty.Setsize(master, winsize(windowChange{r.Columns, r.Rows, r.Width, r.Height}))
	applyModes(tty, r.Modes)
	os.Chown(tty.Name(), int(n.server.account.uid), -1) // the group is tty, by the mount
	return nil
}

func (n *session) startSFTP() bool {
	for _, path := range sftpServers {
		if exists(path) {
			return n.run(path, []string{filepath.Base(path)})
		}
	}
	return false
}

// start starts the account's shell, as a login shell if it has no arguments.
func (n *session) start(args []string) bool {
	shell := n.server.account.shell
	name := filepath.Base(shell)
	if args == nil {
		name = "-" + name
	}
	return n.run(shell, append([]string{name}, args...))
}

func (n *session) run(path string, argv []string) bool {
	if n.program != nil {
		return false
	}
	if err := n.launch(path, argv); err != nil {
		n.server.logf("%v", err)
		fmt.Fprintf(n.channel.Stderr(), "hyve: %v\r\n", err)
		return false
	}
	return true
}

// launch starts the program and sets serve.
func (n *session) launch(path string, argv []string) error {
	s := n.server
	attr := &os.ProcAttr{Dir: "/", Env: n.environment(), Sys: &syscall.SysProcAttr{Setsid: true}}
	if exists(s.account.home) {
		attr.Dir = s.account.home
	}
	if os.Geteuid() == 0 {
		attr.Sys.Credential = &syscall.Credential{Uid: s.account.uid, Gid: s.account.gid, Groups: s.account.groups}
	}
	if s.cgroup != "" {
		dir, err := os.MkdirTemp(s.cgroup, "session-")
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
				go func() { p.wait(); os.Remove(dir) }()
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
	p, err := n.server.reaper.startFile(path, argv, attr)
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
	p, err := n.server.reaper.startFile(path, argv, attr)
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
func (n *session) finish(p *process, output <-chan struct{}) {
	status := p.wait()
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
	a := n.server.account
	env := []string{
		servicePath, "HOME=" + a.home, "USER=" + a.name, "LOGNAME=" + a.name, "SHELL=" + a.shell,
		"LANG=C.UTF-8", "MAIL=/var/mail/" + a.name,
	}
	if n.server.environment != nil {
		env = append(env, n.server.environment()...)
	}
	env = append(env, n.env...)
	if n.term != "" {
		env = append(env, "TERM="+n.term, "SSH_TTY="+n.tty.Name())
	}
	return env
}
