package dockermachine

import (
	"context"
	"fmt"
	"os/exec"
	"path"
	"strings"

	"github.com/hyve-vm/hyve/internal/sshclient"
)

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
