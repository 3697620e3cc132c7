package cli

import (
	"errors"
	"fmt"
	"os/exec"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/hyve-vm/hyve/internal/sshclient"
	"github.com/hyve-vm/hyve/internal/terminal"
)

func (a *app) scpCommand() *cobra.Command {
	var options sshclient.CopyOptions
	cmd := &cobra.Command{
		Use:   "scp [[USER@]NAME:]FROM [[USER@]NAME:]TO",
		Short: "Copy files into a machine, out of it, or between two",
		Long: `Copy files with the host's scp: into a machine, out of it, or from one to another. The
machine "localhost" is the host.`,
		Example: "  hyve scp -r ./site dockerhost:/home/docker\n  hyve scp dockerhost:/var/log/x.log .",
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) != 2 {
				return &usageError{errors.New("two places are expected, from where and to where"), "see hyve scp --help"}
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			from, err := a.end(cmd, args[0])
			if err != nil {
				return err
			}
			to, err := a.end(cmd, args[1])
			if err != nil {
				return err
			}
			scp, cleanup, err := sshclient.CopyCommand(from, to, options)
			if err != nil {
				return err
			}
			defer cleanup()
			return a.runAlong(scp)
		},
	}
	cmd.Flags().BoolVarP(&options.Recursive, "recursive", "r", false, "copy directories with what is in them")
	cmd.Flags().BoolVarP(&options.Delta, "delta", "d", false, "send differences only, by rsync, which both ends need")
	cmd.Flags().BoolVarP(&options.Quiet, "quiet", "q", false, "show no progress")
	return cmd
}

// end is one end of a copy.
func (a *app) end(cmd *cobra.Command, arg string) (sshclient.End, error) {
	location, err := sshclient.ParseLocation(arg)
	if err != nil {
		return sshclient.End{}, &usageError{err, "see hyve scp --help"}
	}
	if location.Machine == "" {
		return sshclient.End{Location: location}, nil
	}
	m, err := a.load([]string{location.Machine})
	if err != nil {
		return sshclient.End{}, err
	}
	status, err := running(cmd.Context(), m)
	if err != nil {
		return sshclient.End{}, err
	}
	access, err := sshclient.System(m, status.Endpoints.SSH)
	return sshclient.End{Location: location, Access: access}, err
}

// runAlong runs a program with this one's streams. The error is an exitError if it ended
// with another status than 0.
func (a *app) runAlong(cmd *exec.Cmd) error {
	cmd.Stdin, cmd.Stdout, cmd.Stderr = a.stdin, terminal.Raw(a.stdout), terminal.Raw(a.stderr)
	return exitOf(cmd.Path, cmd.Run())
}

// exitOf makes an exitError of how a program ended.
func exitOf(path string, err error) error {
	var exit *exec.ExitError
	switch {
	case errors.As(err, &exit) && exit.Exited():
		return exitError(exit.ExitCode())
	case errors.As(err, &exit):
		return exitError(128 + int(exit.Sys().(syscall.WaitStatus).Signal()))
	case err != nil:
		return fmt.Errorf("running %s: %w", path, err)
	}
	return nil
}
