package cli

import (
	"cmp"
	"context"
	"errors"

	"github.com/spf13/cobra"

	"github.com/hyve-vm/hyve/internal/control"
	"github.com/hyve-vm/hyve/internal/hint"
	"github.com/hyve-vm/hyve/internal/image/build"
	"github.com/hyve-vm/hyve/internal/lifecycle"
	"github.com/hyve-vm/hyve/internal/machine"
)

func (a *app) upgradeCommand() *cobra.Command {
	var options lifecycle.UpgradeOptions
	cmd := &cobra.Command{
		Use:   "upgrade NAME...",
		Short: "Move machines to today's guest image",
		Long: `Move machines to the guest image that this hyve makes, which is built if need be; their
data stays as it is. The engine stays the one that the machine was made with, stable or
newest, unless --engine says otherwise. A machine that runs is shut down and started
again. One whose engine does not come up goes back to what it was.`,
		Example:           "  hyve upgrade dockerhost\n  hyve upgrade dockerhost --engine newest",
		ValidArgsFunction: a.completeNames,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return &usageError{errors.New("the name of a machine is expected"), "see hyve upgrade --help"}
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			if _, err := build.ParseEngine(options.Engine); err != nil {
				return &usageError{err, hint.Of(err)}
			}
			// Every name is looked at before anything is done.
			if err := a.each(args, mustExist); err != nil {
				return err
			}
			return a.each(args, func(home machine.Home, name string) error {
				return a.upgrade(cmd.Context(), home, name, options)
			})
		},
	}
	cmd.Flags().StringVar(&options.Engine, "engine", "", "Docker engine: stable, newest, or a `VERSION` of Debian's docker.io (default: what the machine was made with)")
	cmd.Flags().StringVar(&options.Mirror, "mirror", "", "Debian `URL` to build the image from (default: $HYVE_MIRROR, or what the host's apt uses)")
	return cmd
}

func (a *app) upgrade(ctx context.Context, home machine.Home, name string, options lifecycle.UpgradeOptions) error {
	m, err := home.Load(name)
	if err != nil {
		return err
	}
	show := a.newDisplay(false)
	defer show.close()
	follow := show.follower(name)
	follow.Machine = func(control.Status) {}
	options.Phase = func(title string) {
		show.enter(title)
		follow.Machine = show.follow(title)
	}
	done, err := lifecycle.Upgrade(ctx, m, options, lifecycle.Follower{
		Image: follow.Image, Warn: follow.Warn,
		Machine: func(s control.Status) { follow.Machine(s) },
	})
	if errors.Is(err, lifecycle.ErrAlready) {
		show.close()
		return a.say("machine %q is up to date: docker %s", name, done.To)
	}
	if failed := (*lifecycle.UpgradeError)(nil); errors.As(err, &failed) && failed.Back == nil {
		show.done("") // the way back has succeeded
	}
	if err != nil {
		return err
	}
	show.done("")
	show.close()
	return a.say("machine %q has docker %s now, %s before", name, done.To, cmp.Or(done.From, "an unknown one"))
}
