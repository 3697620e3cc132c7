package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
	"golang.org/x/crypto/ssh"
	"golang.org/x/term"

	"github.com/hyve-vm/hyve/internal/machine"
	"github.com/hyve-vm/hyve/internal/pki"
)

func (a *app) sshCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "ssh [NAME] [-- COMMAND...]",
		Short: "Open a shell in a machine, or run a command in it",
		Long: `Open a shell in a machine as user docker, who may become root by sudo, or run a
command in it. The command's input, output, signals and exit status are passed on.`,
		ValidArgsFunction: a.completeNames,
		RunE: func(cmd *cobra.Command, args []string) error {
			name, command := splitSSH(args, cmd.ArgsLenAtDash() == 0)
			m, err := a.load(name)
			if err != nil {
				return err
			}
			if _, err := running(cmd.Context(), m); err != nil {
				return err
			}
			return a.runInGuest(cmd.Context(), m, strings.Join(command, " "))
		},
	}
	cmd.Flags().SetInterspersed(false)
	return cmd
}

// splitSSH tells the machine's name, if there is one, from the command. What
// follows the name is the command's own, dashes and all.
func splitSSH(args []string, dashed bool) (name, command []string) {
	if dashed || len(args) == 0 {
		return nil, args
	}
	name, command = args[:1], args[1:]
	if len(command) > 0 && command[0] == "--" {
		command = command[1:]
	}
	return name, command
}

// runInGuest runs a shell's command line, or a login shell if it is empty, in a
// machine. The error is an exitError if it ended with another status than 0.
func (a *app) runInGuest(ctx context.Context, m *machine.Machine, command string) error {
	client, err := dialSSH(ctx, m)
	if err != nil {
		return err
	}
	defer client.Close()
	session, err := client.NewSession()
	if err != nil {
		return fmt.Errorf("opening a session in machine %q: %w", m.Name, err)
	}
	defer session.Close()
	session.Stdin, session.Stdout, session.Stderr = a.stdin, a.stdout, a.stderr

	restore, err := a.attachTerminal(session)
	if err != nil {
		return err
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
		return exitError(exitStatus(exit))
	}
	if err != nil && !errors.Is(err, io.EOF) {
		return fmt.Errorf("running a command in machine %q: %w", m.Name, err)
	}
	return nil
}

// exitStatus is the status as a shell has it: 128 and the signal's number for a
// command that a signal ended.
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

func dialSSH(ctx context.Context, m *machine.Machine) (*ssh.Client, error) {
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
	conn, err := (&net.Dialer{}).DialContext(ctx, "unix", m.Dir().SSHSocket())
	if err != nil {
		return nil, fmt.Errorf("reaching machine %q: %w", m.Name, err)
	}
	c, channels, requests, err := ssh.NewClientConn(conn, m.Name, &ssh.ClientConfig{
		User:            "docker",
		Auth:            []ssh.AuthMethod{ssh.PublicKeys(key.Signer)},
		HostKeyCallback: ssh.FixedHostKey(host.Signer.PublicKey()),
		// As OpenSSH does, and for emulated processors, which have no AES worth the name.
		Config: ssh.Config{Ciphers: []string{ssh.CipherChaCha20Poly1305, ssh.CipherAES128GCM}},
	})
	if err != nil {
		conn.Close()
		return nil, fmt.Errorf("logging in to machine %q: %w", m.Name, err)
	}
	return ssh.NewClient(c, channels, requests), nil
}

// attachTerminal gives the session a terminal of its own if hyve has one at both
// ends, and passes changes of its size on.
func (a *app) attachTerminal(session *ssh.Session) (restore func(), err error) {
	in, inOK := a.stdin.(*os.File)
	out, outOK := a.stdout.(*os.File)
	if !inOK || !outOK || !term.IsTerminal(int(in.Fd())) || !term.IsTerminal(int(out.Fd())) {
		return func() {}, nil
	}
	width, height, err := term.GetSize(int(out.Fd()))
	if err != nil {
		return nil, fmt.Errorf("asking for the terminal's size: %w", err)
	}
	name := a.getenv("TERM")
	if name == "" {
		name = "xterm"
	}
	if err := session.RequestPty(name, height, width, ssh.TerminalModes{}); err != nil {
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
