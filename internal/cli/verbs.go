package cli

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/hyve-vm/hyve/internal/control"
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

func (a *app) removeCommand() *cobra.Command {
	var force, yes bool
	cmd := &cobra.Command{
		Use:               "rm NAME...",
		Aliases:           []string{"remove", "delete"},
		Short:             "Remove machines and everything in them",
		ValidArgsFunction: a.completeNames,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return &usageError{errors.New("the name of a machine is expected"), "see hyve rm --help"}
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.each(args, func(home machine.Home, name string) error {
				return a.remove(cmd.Context(), home, name, force, yes)
			})
		},
	}
	cmd.Flags().BoolVarP(&force, "force", "f", false, "kill machines that run, and do not ask")
	cmd.Flags().BoolVarP(&yes, "yes", "y", false, "do not ask")
	return cmd
}

func (a *app) remove(ctx context.Context, home machine.Home, name string, force, yes bool) error {
	if err := mustExist(home, name); err != nil {
		return err
	}
	contexts, err := a.contexts(home)
	if err != nil {
		return err
	}
	running, err := home.Dir(name).Held()
	if err != nil {
		return err
	}
	if !force && !yes {
		question := fmt.Sprintf("Remove machine %q and everything in it?", name)
		if running {
			question = fmt.Sprintf("Machine %q is running. Kill and remove it and everything in it?", name)
		}
		if !a.confirm(question) {
			return fmt.Errorf("machine %q was not removed", name)
		}
	}
	if err := lifecycle.Remove(ctx, home, name); err != nil {
		return err
	}
	if err := contexts.Remove(name); err != nil {
		return err
	}
	return a.say("machine %q was removed", name)
}

// confirm asks on the terminal; no answer is no.
func (a *app) confirm(question string) bool {
	fmt.Fprintf(a.stderr, "%s [y/N] ", question)
	answer, err := bufio.NewReader(a.stdin).ReadString('\n')
	if err != nil {
		fmt.Fprintln(a.stderr)
	}
	answer = strings.ToLower(strings.TrimSpace(answer))
	return answer == "y" || answer == "yes"
}

// each does f for every machine named, or for the one that is meant; one that
// fails does not keep the others from it.
func (a *app) each(args []string, f func(home machine.Home, name string) error) error {
	home, err := a.home()
	if err != nil {
		return err
	}
	if len(args) == 0 {
		name, err := a.resolve(home, nil)
		if err != nil {
			return err
		}
		args = []string{name}
	}
	var failed error
	for _, name := range args {
		if err := f(home, name); err != nil {
			if failed != nil {
				a.report(failed)
			}
			failed = err
		}
	}
	return failed
}

// mustExist returns an error unless the machine exists, be it broken.
func mustExist(home machine.Home, name string) error {
	_, err := home.Load(name)
	if broken := (*machine.BrokenError)(nil); errors.As(err, &broken) {
		return nil
	}
	return err
}

// say tells the user something that is not what was asked for.
func (a *app) say(format string, args ...any) error {
	_, err := fmt.Fprintf(a.stderr, format+"\n", args...)
	return err
}

// running returns the status of a machine that must run.
func running(ctx context.Context, m *machine.Machine) (control.Status, error) {
	status, err := lifecycle.Status(ctx, m.Dir())
	switch {
	case err != nil:
		return status, err
	case status.State == control.Unresponsive:
		return status, &lifecycle.UnresponsiveError{Name: m.Name}
	case status.State != control.Running:
		return status, &notRunningError{m.Name, status.State}
	}
	return status, nil
}

type notRunningError struct {
	name  string
	state control.State
}

func (e *notRunningError) Error() string {
	return fmt.Sprintf("machine %q is not running: it is %s", e.name, strings.ToLower(string(e.state)))
}

func (e *notRunningError) Hint() string { return "start it with: hyve start " + e.name }
