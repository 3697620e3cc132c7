package cli

import (
	"errors"

	"github.com/spf13/cobra"

	"github.com/hyve-vm/hyve/internal/dockerenv"
	"github.com/hyve-vm/hyve/internal/lifecycle"
)

func (a *app) cloneCommand() *cobra.Command {
	var options lifecycle.CloneOptions
	cmd := &cobra.Command{
		Use:   "clone NAME NEW",
		Short: "Copy a machine, containers and all",
		Long: `Copy a machine: its disk and, where machines are frozen, everything that runs in it.
The copy has a name, an address and keys of its own. It runs if the original does,
which is paused while it is copied.`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) != 2 {
				return &usageError{errors.New("the names of a machine and of its copy are expected"), "see hyve clone --help"}
			}
			return nil
		},
		ValidArgsFunction: a.completeNames,
		RunE: func(cmd *cobra.Command, args []string) error {
			from, err := a.load(args[:1])
			if err != nil {
				return err
			}
			options.Name = args[1]
			if options.Contexts, err = a.contexts(from.Home()); err != nil {
				return err
			}
			show := a.newDisplay(false)
			defer show.close()
			m, err := lifecycle.Clone(cmd.Context(), from, options, show.follower(options.Name))
			if err != nil {
				return err
			}
			show.close()
			return a.say("machine %q is a copy of %q; use it with: docker --context %s …", m.Name, from.Name, dockerenv.ContextName(m.Name))
		},
	}
	cmd.Flags().BoolVar(&options.NoStart, "no-start", false, "do not start the copy")
	return cmd
}
