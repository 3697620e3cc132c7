package cli

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/hyve-vm/hyve/internal/machine"
	"github.com/hyve-vm/hyve/internal/sshclient"
	"github.com/hyve-vm/hyve/internal/terminal"
)

func (a *app) sshCommand() *cobra.Command {
	var agent bool
	var user string
	cmd := &cobra.Command{
		Use:   "ssh [NAME] [-- COMMAND...]",
		Short: "Open a shell in a machine, or run a command in it",
		Long: `Open a shell in a machine as user docker, who may become root by sudo, or run a
command in it. The command's input, output, signals and exit status are passed on;
what it writes on a terminal is not cleaned.
It can be rsync's remote shell: rsync -e "hyve ssh" FILE NAME:`,
		ValidArgsFunction: a.completeNames,
		RunE: func(cmd *cobra.Command, args []string) error {
			if user != sshclient.User {
				return &usageError{fmt.Errorf("nobody logs in as %q", user), "the user is docker, who becomes root by sudo"}
			}
			socket := ""
			if agent {
				if socket = a.getenv("SSH_AUTH_SOCK"); socket == "" {
					return &usageError{errors.New("there is no SSH agent to forward: SSH_AUTH_SOCK is not set"), "start one: eval \"$(ssh-agent)\"; ssh-add"}
				}
			}
			name, command := splitSSH(args, cmd.ArgsLenAtDash() == 0)
			m, err := a.load(name)
			if err != nil {
				return err
			}
			if _, err := running(cmd.Context(), m); err != nil {
				return err
			}
			return a.runInGuest(cmd.Context(), m, strings.Join(command, " "), socket)
		},
	}
	cmd.Flags().SetInterspersed(false)
	cmd.Flags().BoolVarP(&agent, "forward-agent", "A", false, "let programs in the machine use this host's SSH agent")
	cmd.Flags().StringVarP(&user, "login", "l", sshclient.User, "`USER` to log in as; there is only docker")
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
// machine, with the SSH agent at that socket, if any. The error is an exitError if it ended with another status than 0.
func (a *app) runInGuest(ctx context.Context, m *machine.Machine, command, agent string) error {
	status, err := sshclient.Run(ctx, m, command, sshclient.Streams{
		In: a.stdin, Out: terminal.Raw(a.stdout), Err: terminal.Raw(a.stderr), Terminal: a.getenv("TERM"), Agent: agent,
	})
	if err == nil && status != 0 {
		err = exitError(status)
	}
	return err
}
