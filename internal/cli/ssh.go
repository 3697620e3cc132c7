package cli

import (
	"context"
	"strings"

	"github.com/spf13/cobra"

	"github.com/hyve-vm/hyve/internal/machine"
	"github.com/hyve-vm/hyve/internal/sshclient"
	"github.com/hyve-vm/hyve/internal/terminal"
)

func (a *app) sshCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "ssh [NAME] [-- COMMAND...]",
		Short: "Open a shell in a machine, or run a command in it",
		Long: `Open a shell in a machine as user docker, who may become root by sudo, or run a
command in it. The command's input, output, signals and exit status are passed on;
what it writes on a terminal is not cleaned.`,
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
	status, err := sshclient.Run(ctx, m, command, sshclient.Streams{
		In: a.stdin, Out: terminal.Raw(a.stdout), Err: terminal.Raw(a.stderr), Terminal: a.getenv("TERM"),
	})
	if err == nil && status != 0 {
		err = exitError(status)
	}
	return err
}
