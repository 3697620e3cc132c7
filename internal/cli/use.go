package cli

import (
	"github.com/spf13/cobra"

	"github.com/hyve-vm/hyve/internal/dockerenv"
	"github.com/hyve-vm/hyve/internal/lifecycle"
)

func (a *app) useCommand() *cobra.Command {
	return &cobra.Command{
		Use:               "use [NAME]",
		Short:             "Make a machine the one that docker uses",
		Args:              atMostOne,
		ValidArgsFunction: a.completeNames,
		RunE: func(cmd *cobra.Command, args []string) error {
			m, err := a.load(args)
			if err != nil {
				return err
			}
			contexts, err := a.contexts(m.Home())
			if err != nil {
				return err
			}
			if err := lifecycle.OfferContext(contexts, m); err != nil {
				return err
			}
			if err := contexts.Use(m.Name); err != nil {
				return err
			}
			if name := dockerenv.Overruled(a.getenv); name != "" {
				return a.say("docker will use machine %q when %s is not set any more", m.Name, name)
			}
			return nil
		},
	}
}
