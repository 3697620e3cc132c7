package cli

import (
	"context"
	"io"

	"github.com/spf13/cobra"

	"github.com/hyve-vm/hyve/internal/lifecycle"
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
			ready, err := lifecycle.Inherit()
			if err != nil {
				return err
			}
			// Signals are the supervisor's own: the first one must not cut it short.
			return supervisor.Run(context.WithoutCancel(cmd.Context()), home, args[0], end, ready)
		},
	}
	cmd.Flags().BoolVar(&leash, "leash", false, "kill the machine when standard input ends")
	return cmd
}
