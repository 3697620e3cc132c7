package dockermachine

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"syscall"

	"github.com/hyve-vm/hyve/internal/sshclient"
	"github.com/hyve-vm/hyve/internal/terminal"
)

func (c *client) scpWord() *word {
	var options sshclient.CopyOptions
	f := newFlags()
	f.BoolVarP(&options.Recursive, "recursive", "r", false, "Copy files recursively (required to copy directories)")
	f.BoolVarP(&options.Delta, "delta", "d", false, "Reduce amount of data sent over network by sending only the differences (uses rsync)")
	f.BoolVarP(&options.Quiet, "quiet", "q", false, "Disables the progress meter as well as warning and diagnostic messages from ssh")
	w := &word{name: "scp", usage: "Copy files between machines",
		description: "Arguments are [[user@]machine:][path] [[user@]machine:][path].", flags: f}
	w.run = func(ctx context.Context, args []string) error {
		if len(args) != 2 {
			c.wordHelp(w)
			return message("Improper number of arguments")
		}
		from, err := c.end(ctx, args[0])
		if err != nil {
			return err
		}
		to, err := c.end(ctx, args[1])
		if err != nil {
			return err
		}
		cmd, cleanup, err := sshclient.CopyCommand(from, to, options)
		switch {
		case errors.Is(err, sshclient.ErrNoSCP):
			return message("You must have a copy of the scp binary locally to use the scp feature")
		case errors.Is(err, sshclient.ErrNoRsync):
			return message("You must have a copy of the rsync binary locally to use the --delta option")
		case err != nil:
			return err
		}
		defer cleanup()
		return c.runBeside(cmd)
	}
	return w
}

// end finds the machine of one end of a copy.
func (c *client) end(ctx context.Context, arg string) (sshclient.End, error) {
	location, err := sshclient.ParseLocation(arg)
	if err != nil || location.Machine == "" {
		return sshclient.End{Location: location}, err
	}
	access, err := c.access(ctx, location.Machine)
	return sshclient.End{Location: location, Access: access}, err
}

// access is how the system's SSH clients reach a machine.
func (c *client) access(ctx context.Context, name string) (sshclient.Access, error) {
	h, err := c.load(name)
	if err != nil {
		return sshclient.Access{}, message("Error loading host: Error loading host: %w", err)
	}
	if h.kind == foreign && h.stored.DriverName != driverNone {
		return sshclient.Access{}, errForeign(h)
	}
	if h.machine == nil {
		return sshclient.Access{}, message("Host %q has no driver, and so no SSH", name)
	}
	now, err := h.up(ctx)
	if err != nil {
		return sshclient.Access{}, err
	}
	return sshclient.System(h.machine, now.status.Endpoints.SSH)
}

// runBeside runs a program with this one's streams and passes its exit status on.
func (c *client) runBeside(cmd *exec.Cmd) error {
	c.detail("running %q", cmd.Args)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, terminal.Raw(os.Stdout), terminal.Raw(os.Stderr)
	err := cmd.Run()
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
		if exit.Exited() {
			return exitError(exit.ExitCode())
		}
		return exitError(128 + int(exit.Sys().(syscall.WaitStatus).Signal()))
	}
	return err
}
