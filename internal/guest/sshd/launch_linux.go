package sshd

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/sys/unix"

	"github.com/hyve-vm/hyve/internal/guest/process"
)

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
			copyTerminal(n.channel, n.pty)
		}()
		go n.finish(p, func() { n.pty.SetReadDeadline(time.Now()) }, output)
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
	n.program, n.pipes = p, []*os.File{stdin, stdout, stderr}
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
		go n.finish(p, func() { stdin.Close() }, output)
	}
	return nil
}

// finish tells the client how the program ended, when it has ended, and closes the channel
// when the client has taken all of its output. As with OpenSSH's server that takes as long as
// others in the background hold a pipe of the program's, or as the client is there, but no
// longer than the program itself on a terminal. ended is called once the program has ended.
func (n *session) finish(p *process.Process, ended func(), output <-chan struct{}) {
	status := p.Wait()
	if status.Signaled() {
		name := strings.TrimPrefix(unix.SignalName(status.Signal()), "SIG")
		n.channel.SendRequest("exit-signal", false, ssh.Marshal(exitSignal{
			Signal: name, CoreDumped: status.CoreDump(), Message: status.Signal().String()}))
	} else {
		n.channel.SendRequest("exit-status", false, ssh.Marshal(exitStatus{uint32(status.ExitStatus())}))
	}
	ended()
	<-output
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
