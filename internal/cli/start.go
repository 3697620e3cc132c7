package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/hyve-vm/hyve/internal/dockerenv"
	"github.com/hyve-vm/hyve/internal/lifecycle"
	"github.com/hyve-vm/hyve/internal/machine"
)

func (a *app) startCommand() *cobra.Command {
	var timing, cold bool
	cmd := &cobra.Command{
		Use:               "start [NAME...]",
		Aliases:           []string{"resume"},
		Short:             "Start machines",
		ValidArgsFunction: a.completeNames,
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.each(args, func(home machine.Home, name string) error {
				return a.start(cmd.Context(), home, name, timing, cold)
			})
		},
	}
	cmd.Flags().BoolVar(&timing, "timing", false, "print where the time went")
	cmd.Flags().BoolVar(&cold, "cold", false, "boot the machine, even where it could be thawed; what runs in a suspended one is lost")
	return cmd
}

func (a *app) start(ctx context.Context, home machine.Home, name string, timing, cold bool) error {
	m, err := home.Load(name)
	if err != nil {
		return err
	}
	contexts, err := a.contexts(home)
	if err != nil {
		return err
	}
	show := a.newDisplay(timing)
	defer show.close()
	start := lifecycle.Start
	if cold {
		start = lifecycle.StartCold
	}
	status, err := start(ctx, m, show.follow("Starting "+name))
	runs := errors.Is(err, lifecycle.ErrAlready)
	if err != nil && !runs {
		return err
	}
	// A machine that runs may lack its context: its creation was killed before it made one.
	if err := lifecycle.OfferContext(contexts, m); err != nil || !runs {
		return err
	}
	if status.Failure != nil {
		return &lifecycle.StartError{Name: name, Failure: *status.Failure, Given: m.Boot()}
	}
	return a.say("machine %q is already running", name)
}

// contexts opens the docker client's directory. A verb does it before it acts: where
// there is none nothing shall have happened.
func (a *app) contexts(home machine.Home) (dockerenv.Store, error) {
	return dockerenv.OpenStore(a.getenv, string(home))
}

func (a *app) restartCommand() *cobra.Command {
	var timing bool
	cmd := &cobra.Command{
		Use:               "restart [NAME...]",
		Short:             "Shut machines down and boot them",
		ValidArgsFunction: a.completeNames,
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.each(args, func(home machine.Home, name string) error {
				if _, err := a.contexts(home); err != nil {
					return err // as start would, but before the stop
				}
				through, done := lifecycle.Through(cmd.Context(), func() {
					fmt.Fprintf(a.stderr, "interrupted: machine %q is started all the same; to leave it stopped, interrupt again, and start it later with: hyve start %s\n", name, name)
				})
				show := a.newDisplay(false)
				err := lifecycle.Stop(through, home.Dir(name), name, true, show.follow("Stopping "+name))
				show.close()
				if err != nil && !errors.Is(err, lifecycle.ErrAlready) {
					return cmp.Or(err, done())
				}
				return cmp.Or(a.start(through, home, name, timing, false), done())
			})
		},
	}
	cmd.Flags().BoolVar(&timing, "timing", false, "print where the time went")
	return cmd
}
