package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"github.com/hyve-vm/hyve/internal/lifecycle"
	"github.com/hyve-vm/hyve/internal/machine"
	"github.com/hyve-vm/hyve/internal/supervisor"
)

// superviseCommand is what lifecycle.Start executes; users do not.
func (a *app) superviseCommand() *cobra.Command {
	var leash bool
	cmd := &cobra.Command{
		Use:    "supervise NAME",
		Hidden: true,
		Args:   cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			home, err := a.home()
			if err != nil {
				return err
			}
			var end io.Reader
			if leash {
				end = a.stdin
			}
			starter := os.NewFile(lifecycle.ReadyFD, "starter")
			// Signals are the supervisor's own: the first one must not cut it short.
			return supervisor.Run(context.WithoutCancel(cmd.Context()), home, args[0], end, func(err error) {
				tellStarter(starter, err)
			})
		},
	}
	cmd.Flags().BoolVar(&leash, "leash", false, "kill the machine when standard input ends")
	return cmd
}

// tellStarter answers on lifecycle.ReadyFD, as its comment says.
func tellStarter(starter *os.File, err error) {
	defer starter.Close()
	switch {
	case err == nil:
	case errors.Is(err, machine.ErrLocked):
		fmt.Fprintln(starter, "locked")
	default:
		fmt.Fprintf(starter, "%v\n%s\n", err, hintOf(err))
	}
}
