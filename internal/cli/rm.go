package cli

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/hyve-vm/hyve/internal/lifecycle"
	"github.com/hyve-vm/hyve/internal/machine"
)

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
