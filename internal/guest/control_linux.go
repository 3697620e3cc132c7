package guest

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"

	"github.com/hyve-vm/hyve/internal/accept"
	"github.com/hyve-vm/hyve/internal/guestapi"
)

// runDir holds PID 1's sockets, controlSocket the one for commands in the guest.
const (
	runDir        = "/run/hyve"
	controlSocket = runDir + "/control.sock"
)

// listenControl opens the socket by which root's commands in the guest reach
// PID 1. One line asks, one answers.
func listenControl() (*net.UnixListener, error) {
	if err := os.MkdirAll(runDir, 0o700); err != nil {
		return nil, fmt.Errorf("making %s: %w", runDir, err)
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: controlSocket, Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("listening on %s: %w", controlSocket, err)
	}
	if err := os.Chmod(controlSocket, 0o600); err != nil {
		l.Close()
		return nil, fmt.Errorf("listening on %s: %w", controlSocket, err)
	}
	return l, nil
}

// serveControl answers commands until l is closed.
func (g *guest) serveControl(l *net.UnixListener) {
	new(accept.Door).Serve(context.Background(), l, func(conn net.Conn) {
		defer g.dieOfPanic()
		defer conn.Close()
		// Not through a buffer: publish reads the connection to its end.
		line, err := bufio.NewReaderSize(io.LimitReader(conn, 1<<10), 1<<10).ReadString('\n')
		if err != nil {
			return
		}
		g.command(strings.Fields(line), conn.(*net.UnixConn))
	})
}

// command does what one line asks.
func (g *guest) command(words []string, conn *net.UnixConn) {
	if len(words) == 0 {
		return
	}
	var err error
	switch verb, args := words[0], words[1:]; {
	case verb == "port":
		if err = g.ports.Serve(args, conn); err == nil {
			return
		}
	case verb == "power" && len(args) == 1:
		g.askPower(guestapi.PowerOff{Reboot: args[0] == "reboot", Reason: guestapi.NewText("a command in the guest asked")})
	case verb == "engine" && len(args) == 1:
		err = g.engine.Command(args[0])
	case verb == "hostname" && len(args) == 1:
		id, _ := g.identity.now.get()
		if !validName.MatchString(args[0]) {
			err = fmt.Errorf("setting the host name %q: want 1 to 64 letters, digits, dots and hyphens", args[0])
		} else {
			err = setHostName(args[0], id.Network.Address)
		}
	default:
		err = fmt.Errorf("unknown command %q", words)
	}
	if err != nil {
		fmt.Fprintf(conn, "error: %s\n", strings.ReplaceAll(err.Error(), "\n", "; "))
		return
	}
	io.WriteString(conn, "ok\n")
}

// commandLine is the line that asks PID 1 for what hyve-init was called for, and
// whether the name is one of those that ask. Arguments of poweroff and its like (-h, -P, now) do not
// change what they mean, but for shutdown's.
func commandLine(argv []string) (string, bool) {
	name, args := filepath.Base(argv[0]), argv[1:]
	switch name {
	case "poweroff", "halt":
		return "power off", true
	case "reboot":
		return "power reboot", true
	case "shutdown":
		for _, arg := range args {
			if strings.HasPrefix(arg, "-") && !strings.HasPrefix(arg, "--") && strings.Contains(arg, "r") || arg == "--reboot" {
				return "power reboot", true
			}
		}
		return "power off", true
	case "sethostname":
		return "hostname " + strings.Join(args, " "), true
	case "docker": // /etc/init.d/docker
		return "engine " + strings.Join(args, " "), true
	}
	return "", false
}

// ask sends one line to PID 1 and returns its complaint, if any.
func ask(line string) error {
	conn, err := net.Dial("unix", controlSocket)
	if errors.Is(err, os.ErrPermission) {
		return fmt.Errorf("asking PID 1: only root may; try it with sudo: %w", err)
	}
	if err != nil {
		return fmt.Errorf("asking PID 1: %w", err)
	}
	defer conn.Close()
	if _, err := io.WriteString(conn, line+"\n"); err != nil {
		return fmt.Errorf("asking PID 1: %w", err)
	}
	answer, err := bufio.NewReader(conn).ReadString('\n')
	if err != nil {
		return fmt.Errorf("asking PID 1: %w", err)
	}
	if text, failed := strings.CutPrefix(strings.TrimSpace(answer), "error: "); failed {
		return errors.New(text)
	}
	return nil
}
