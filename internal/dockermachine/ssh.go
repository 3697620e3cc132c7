package dockermachine

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"

	"github.com/hyve-vm/hyve/internal/sshclient"
	"github.com/hyve-vm/hyve/internal/terminal"
)

func (c *client) sshWord() *word {
	w := &word{name: "ssh", usage: "Log into or run a command on a machine with SSH.", description: "Arguments are [machine-name] [command]",
		flags: newFlags(), raw: true}
	w.run = func(ctx context.Context, args []string) error {
		if len(args) > 0 && (args[0] == "-h" || args[0] == "-help" || args[0] == "--help") {
			c.wordHelp(w)
			return nil
		}
		if c.misplaced != nil {
			return c.misplaced
		}
		h, err := c.target(args)
		if err != nil {
			return err
		}
		if h.kind == foreign && h.stored.DriverName != driverNone {
			return errForeign(h)
		}
		if h.machine == nil {
			return message("Error: Cannot run SSH command: Host %q has no driver", h.name)
		}
		now, err := h.up(ctx)
		if errors.Is(err, errNotRunning) {
			return message("Error: Cannot run SSH command: Host %q is not running", h.name)
		}
		if err != nil {
			return message("Error: Cannot run SSH command: %w", err)
		}
		return c.ssh(ctx, h, now.status.Endpoints.SSH, args[min(1, len(args)):])
	}
	return w
}

// ssh becomes the system's client, which gets the rest of the command line as it is, or
// is one itself where there is none.
func (c *client) ssh(ctx context.Context, h *host, address string, args []string) error {
	program, err := exec.LookPath("ssh")
	if err != nil || c.nativeSSH {
		c.detail("using hyve's own SSH client")
		status, err := sshclient.Run(ctx, h.machine, strings.Join(args, " "), sshclient.Streams{
			In: os.Stdin, Out: terminal.Raw(os.Stdout), Err: terminal.Raw(os.Stderr), Terminal: c.getenv("TERM"),
		})
		if err == nil && status != 0 {
			err = exitError(status)
		}
		return err
	}
	access, err := sshclient.System(h.machine, address)
	if err != nil {
		return err
	}
	argv := append(sshArgs(access), args...)
	c.detail("running %q", argv)
	if err := syscall.Exec(program, argv, os.Environ()); err != nil {
		return fmt.Errorf("running %s: %w", program, err)
	}
	return nil // not reached
}

// sshArgs are what ssh is told before the user's own arguments.
func sshArgs(access sshclient.Access) []string {
	argv := []string{"ssh", "-F", "/dev/null",
		"-o", "ConnectionAttempts=3",
		"-o", "ConnectTimeout=10",
		"-o", "ControlMaster=no",
		"-o", "ControlPath=none",
		"-o", "LogLevel=quiet",
		"-o", "PasswordAuthentication=no",
		"-o", "ServerAliveInterval=60",
	}
	for _, option := range access.HostKeyOptions() {
		argv = append(argv, "-o", option)
	}
	return append(argv, access.User+"@"+access.Host, "-o", "IdentitiesOnly=yes", "-i", access.Key, "-p", access.Port)
}

// sshPatience bounds how long a new machine may take to log a user in.
const sshPatience = time.Minute

// greet logs in to a machine that has come up, as docker-machine does.
func (c *client) greet(ctx context.Context, h *host) error {
	c.inform("Waiting for SSH to be available...")
	ctx, cancel := context.WithTimeout(ctx, sshPatience)
	defer cancel()
	status, err := sshclient.Run(ctx, h.machine, "exit 0", sshclient.Streams{})
	if err == nil && status != 0 {
		err = exitError(status)
	}
	if err != nil {
		return message("Too many retries waiting for SSH to be available.  Last error: %w", err)
	}
	c.inform("Detecting the provisioner...")
	return nil
}
