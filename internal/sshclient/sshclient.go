// Package sshclient logs in to machines: with a client of hyve's own, and by telling
// the system's ssh, scp, rsync and sshfs how.
package sshclient

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"
	"golang.org/x/term"

	"github.com/hyve-vm/hyve/internal/machine"
	"github.com/hyve-vm/hyve/internal/pki"
	"github.com/hyve-vm/hyve/internal/private"
)

// User is who logs in to a machine. He may become root by sudo.
const User = "docker"

// Streams are a session's ends on the host.
type Streams struct {
	In       io.Reader
	Out, Err io.Writer
	Terminal string // its kind, as in $TERM
	Agent    string // path of the socket of an SSH agent to forward, "" for none
}

// Run runs a shell's command line, or a login shell if it is empty, in a machine that
// runs, and returns its exit status: 128 and the signal's number if a signal ended it. It
// gets a terminal of its own if In and Out are one. A deadline of ctx bounds all of it; being
// called off otherwise, only what comes before the command.
func Run(ctx context.Context, m *machine.Machine, command string, streams Streams) (status int, err error) {
	client, err := dial(ctx, m)
	if err != nil {
		return 0, err
	}
	defer client.Close()
	session, err := client.NewSession()
	if err != nil {
		return 0, fmt.Errorf("opening a session in machine %q: %w", m.Name, err)
	}
	defer session.Close()
	session.Stdin, session.Stdout, session.Stderr = streams.In, streams.Out, streams.Err

	if streams.Agent != "" {
		err := agent.ForwardToRemote(client, streams.Agent)
		if err == nil {
			err = agent.RequestAgentForwarding(session)
		}
		if err != nil {
			return 0, fmt.Errorf("forwarding the SSH agent: %w", err)
		}
	}
	restore, err := streams.attachTerminal(session)
	if err != nil {
		return 0, err
	}
	defer restore()
	stop := forwardSignals(session)
	defer stop()
	if command == "" {
		err = session.Shell()
	} else {
		err = session.Start(command)
	}
	if err == nil {
		err = session.Wait()
	}
	if exit := (*ssh.ExitError)(nil); errors.As(err, &exit) {
		return exitStatus(exit), nil
	}
	if err != nil && !errors.Is(err, io.EOF) {
		return 0, fmt.Errorf("running a command in machine %q: %w", m.Name, err)
	}
	return 0, nil
}

// exitStatus is the status as a shell has it.
func exitStatus(exit *ssh.ExitError) int {
	if exit.Signal() == "" {
		return exit.ExitStatus()
	}
	for s, name := range signals {
		if string(name) == exit.Signal() {
			return 128 + int(s.(syscall.Signal))
		}
	}
	return 128
}

func dial(ctx context.Context, m *machine.Machine) (*ssh.Client, error) {
	ca, err := pki.OpenCA(m.Home().PKIDir())
	if err != nil {
		return nil, err
	}
	key, err := ca.SSHKey()
	if err != nil {
		return nil, err
	}
	host, err := pki.OpenSSHKey(m.Dir().HostKey())
	if err != nil {
		return nil, err
	}
	conn, err := private.Dial(ctx, m.Dir().SSHSocket())
	if err != nil {
		return nil, fmt.Errorf("reaching machine %q: %w", m.Name, err)
	}
	if deadline, ok := ctx.Deadline(); ok {
		conn.SetDeadline(deadline)
	}
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	c, channels, requests, err := ssh.NewClientConn(conn, m.Name, &ssh.ClientConfig{
		User:            User,
		Auth:            []ssh.AuthMethod{ssh.PublicKeys(key.Signer)},
		HostKeyCallback: ssh.FixedHostKey(host.Signer.PublicKey()),
		// As OpenSSH does, and for emulated processors, which have no AES worth the name.
		Config: ssh.Config{Ciphers: []string{ssh.CipherChaCha20Poly1305, ssh.CipherAES128GCM}},
	})
	if err != nil {
		conn.Close()
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return nil, fmt.Errorf("logging in to machine %q: %w", m.Name, err)
	}
	return ssh.NewClient(c, channels, requests), nil
}

// attachTerminal gives the session a terminal of its own if there is one at both ends,
// and passes changes of its size on.
func (s Streams) attachTerminal(session *ssh.Session) (restore func(), err error) {
	in, inOK := s.In.(*os.File)
	out, outOK := s.Out.(*os.File)
	if !inOK || !outOK || !term.IsTerminal(int(in.Fd())) || !term.IsTerminal(int(out.Fd())) {
		return func() {}, nil
	}
	width, height, err := term.GetSize(int(out.Fd()))
	if err != nil {
		return nil, fmt.Errorf("asking for the terminal's size: %w", err)
	}
	kind := s.Terminal
	if kind == "" {
		kind = "xterm"
	}
	if err := session.RequestPty(kind, height, width, ssh.TerminalModes{}); err != nil {
		return nil, fmt.Errorf("opening a terminal: %w", err)
	}
	state, err := term.MakeRaw(int(in.Fd()))
	if err != nil {
		return nil, fmt.Errorf("setting the terminal: %w", err)
	}
	resized := make(chan os.Signal, 1)
	signal.Notify(resized, syscall.SIGWINCH)
	go func() {
		for range resized {
			if width, height, err := term.GetSize(int(out.Fd())); err == nil {
				session.WindowChange(height, width)
			}
		}
	}()
	return func() {
		signal.Stop(resized)
		close(resized)
		term.Restore(int(in.Fd()), state)
	}, nil
}

// signals that are passed on to a command in a machine.
var signals = map[os.Signal]ssh.Signal{
	syscall.SIGHUP:  ssh.SIGHUP,
	syscall.SIGINT:  ssh.SIGINT,
	syscall.SIGQUIT: ssh.SIGQUIT,
	syscall.SIGTERM: ssh.SIGTERM,
	syscall.SIGUSR1: ssh.SIGUSR1,
	syscall.SIGUSR2: ssh.SIGUSR2,
	syscall.SIGKILL: ssh.SIGKILL, // only ever received
	syscall.SIGSEGV: ssh.SIGSEGV, // only ever received
	syscall.SIGABRT: ssh.SIGABRT, // only ever received
	syscall.SIGPIPE: ssh.SIGPIPE, // only ever received
}

func forwardSignals(session *ssh.Session) (stop func()) {
	received := make(chan os.Signal, 4)
	signal.Notify(received, syscall.SIGHUP, syscall.SIGINT, syscall.SIGQUIT, syscall.SIGTERM, syscall.SIGUSR1, syscall.SIGUSR2)
	go func() {
		for s := range received {
			session.Signal(signals[s])
		}
	}()
	return func() { signal.Stop(received); close(received) }
}
