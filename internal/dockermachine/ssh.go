package dockermachine

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path"
	"strings"
	"syscall"
	"time"

	"github.com/hyve-vm/hyve/internal/control"
	"github.com/hyve-vm/hyve/internal/sshclient"
)

func (c *client) sshWord() *word {
	w := &word{name: "ssh", usage: "Log into or run a command on a machine with SSH.", description: "Arguments are [machine-name] [command]",
		flags: newFlags(), raw: true}
	w.run = func(ctx context.Context, args []string) error {
		if len(args) > 0 && (args[0] == "-h" || args[0] == "-help" || args[0] == "--help") {
			c.wordHelp(w)
			return nil
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
		status := h.look(ctx).status
		if status.State != control.Running {
			return message("Error: Cannot run SSH command: Host %q is not running", h.name)
		}
		return c.ssh(ctx, h, status.Endpoints.SSH, args[min(1, len(args)):])
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
			In: os.Stdin, Out: os.Stdout, Err: os.Stderr, Terminal: c.getenv("TERM"),
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
	status := h.look(ctx).status
	if status.State != control.Running {
		return sshclient.Access{}, errNotRunning
	}
	return sshclient.System(h.machine, status.Endpoints.SSH)
}

// runBeside runs a program with this one's streams and passes its exit status on.
func (c *client) runBeside(cmd *exec.Cmd) error {
	c.detail("running %q", cmd.Args)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	err := cmd.Run()
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
		if exit.Exited() {
			return exitError(exit.ExitCode())
		}
		return exitError(128 + int(exit.Sys().(syscall.WaitStatus).Signal()))
	}
	return err
}

func (c *client) mountWord() *word {
	var unmount bool
	f := newFlags()
	f.BoolVarP(&unmount, "unmount", "u", false, "Unmount instead of mount")
	w := &word{name: "mount", usage: "Mount or unmount a directory from a machine with SSHFS.",
		description: "Arguments are [machine:][path] [mountpoint]", flags: f}
	w.run = func(ctx context.Context, args []string) error {
		if len(args) < 1 || len(args) > 2 {
			c.wordHelp(w)
			return message("Improper number of arguments")
		}
		location, err := mountLocation(args[0])
		if err != nil {
			return err
		}
		dir := location.Path
		if len(args) == 2 {
			dir = args[1]
		}
		if unmount {
			return c.unmount(dir)
		}
		return c.mount(ctx, location, dir)
	}
	return w
}

// mountLocation reads [[USER@]MACHINE:]PATH, where no machine is the default one.
func mountLocation(arg string) (sshclient.Location, error) {
	if !strings.Contains(arg, ":") {
		arg = defaultName + ":" + arg
	}
	location, err := sshclient.ParseLocation(arg)
	if err == nil && location.Machine == "" {
		err = fmt.Errorf("%q names no machine before the colon", arg)
	}
	return location, err
}

func (c *client) unmount(dir string) error {
	program, err := exec.LookPath("fusermount")
	if err != nil {
		return message("You must have a copy of the fusermount binary locally to use the unmount option")
	}
	return c.runBeside(exec.Command(program, "-u", plainPath(dir)))
}

func (c *client) mount(ctx context.Context, from sshclient.Location, dir string) error {
	program, err := exec.LookPath("sshfs")
	if err != nil {
		return message("You must have a copy of the sshfs binary locally to use the mount feature")
	}
	access, err := c.access(ctx, from.Machine)
	if err != nil {
		return err
	}
	if from.User != "" {
		access.User = from.User
	}
	return c.runBeside(exec.Command(program, mountArgs(access, from.Path, dir)...))
}

// mountArgs are what sshfs is told. It goes on in the background, so that there is no
// configuration that could be removed.
func mountArgs(access sshclient.Access, path, dir string) []string {
	args := []string{"-F", "/dev/null"}
	for _, option := range access.Options() {
		if strings.HasPrefix(option, "User=") || strings.HasPrefix(option, "HostName=") {
			continue // sshfs has words of its own for these
		}
		// To FUSE a comma ends an option.
		args = append(args, "-o", strings.NewReplacer(`\`, `\\`, `,`, `\,`).Replace(option))
	}
	return append(args, access.User+"@"+access.Host+":"+path, plainPath(dir))
}

// plainPath is a path that no program takes for a flag.
func plainPath(dir string) string {
	if path.IsAbs(dir) {
		return dir
	}
	return "./" + dir
}

// sshPatience bounds how long a new machine may take to log a user in.
const sshPatience = time.Minute

// greet looks at a machine that has come up as docker-machine does: it logs in, and reads
// what the system calls itself.
func (c *client) greet(ctx context.Context, h *host) error {
	_, err := c.provisioner(ctx, h)
	return err
}

// provisioner logs in to a machine and returns the name of what runs there.
func (c *client) provisioner(ctx context.Context, h *host) (string, error) {
	c.inform("Waiting for SSH to be available...")
	ctx, cancel := context.WithTimeout(ctx, sshPatience)
	defer cancel()
	var release strings.Builder
	status, err := sshclient.Run(ctx, h.machine, "cat /etc/os-release", sshclient.Streams{Out: &release})
	if err == nil && status != 0 {
		err = fmt.Errorf("reading /etc/os-release: %w", exitError(status))
	}
	if err != nil {
		return "", message("Too many retries waiting for SSH to be available.  Last error: %w", err)
	}
	c.inform("Detecting the provisioner...")
	for line := range strings.Lines(release.String()) {
		if id, ok := strings.CutPrefix(strings.TrimSpace(line), "ID="); ok {
			return printable(strings.Trim(id, `"`)), nil
		}
	}
	return "", message("OS type not recognized")
}
