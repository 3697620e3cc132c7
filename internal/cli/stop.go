package cli

import (
	"context"
	"errors"

	"github.com/spf13/cobra"

	"github.com/hyve-vm/hyve/internal/lifecycle"
	"github.com/hyve-vm/hyve/internal/machine"
)

func (a *app) stopCommand() *cobra.Command {
	var cold bool
	cmd := &cobra.Command{
		Use:   "stop [NAME...]",
		Short: "Stop machines cleanly",
		Long: `Stop machines cleanly: containers get their signal and their time, everything is
written to the disk. The idle machine is then frozen where that can be done, so
that the next start takes no boot; hyve status says so.`,
		ValidArgsFunction: a.completeNames,
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.each(args, func(home machine.Home, name string) error {
				return a.stop(cmd.Context(), home, name, cold)
			})
		},
	}
	cmd.Flags().BoolVar(&cold, "cold", false, "shut down, so that the next start boots")
	return cmd
}

func (a *app) stop(ctx context.Context, home machine.Home, name string, cold bool) error {
	if err := mustExist(home, name); err != nil {
		return err
	}
	show := a.newDisplay(false)
	defer show.close()
	err := lifecycle.Stop(ctx, home.Dir(name), name, cold, show.follow("Stopping "+name))
	if errors.Is(err, lifecycle.ErrAlready) {
		return a.say("machine %q is already stopped", name)
	}
	return err
}

func (a *app) suspendCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "suspend [NAME...]",
		Short: "Freeze machines with everything that runs in them",
		Long: `Freeze machines with everything that runs in them: containers, their memory, their
connections among each other. hyve resume, or hyve start, lets them go on.`,
		ValidArgsFunction: a.completeNames,
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.each(args, func(home machine.Home, name string) error {
				if err := mustExist(home, name); err != nil {
					return err
				}
				show := a.newDisplay(false)
				defer show.close()
				err := lifecycle.Suspend(cmd.Context(), home.Dir(name), name, show.follow("Suspending "+name))
				if errors.Is(err, lifecycle.ErrAlready) {
					return a.say("machine %q does not run", name)
				}
				return err
			})
		},
	}
}

func (a *app) killCommand() *cobra.Command {
	return &cobra.Command{
		Use:               "kill [NAME...]",
		Short:             "End machines at once, without asking what runs in them",
		ValidArgsFunction: a.completeNames,
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.each(args, func(home machine.Home, name string) error {
				if err := mustExist(home, name); err != nil {
					return err
				}
				err := lifecycle.Kill(cmd.Context(), home.Dir(name), name)
				if errors.Is(err, lifecycle.ErrAlready) {
					return a.say("machine %q is already stopped", name)
				}
				return err
			})
		},
	}
}
