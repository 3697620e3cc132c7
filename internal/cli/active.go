package cli

import (
	"cmp"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/hyve-vm/hyve/internal/dockerenv"
	"github.com/hyve-vm/hyve/internal/lifecycle"
)

func (a *app) activeCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "active",
		Short: "Print the name of the machine that docker talks to",
		Args:  noArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			home, err := a.home()
			if err != nil {
				return err
			}
			overviews, err := lifecycle.List(cmd.Context(), home)
			if err != nil {
				return err
			}
			current := a.getenv("DOCKER_CONTEXT")
			host := a.getenv("DOCKER_HOST")
			if host == "" && current == "" {
				contexts, err := a.contexts(home)
				if err != nil {
					return err
				}
				if current, err = contexts.Current(); err != nil {
					return err
				}
			}
			for _, o := range overviews {
				if o.Machine == nil {
					continue
				}
				// DOCKER_HOST overrules, as with docker itself.
				socket := "unix://" + o.Machine.Dir().DockerSocket()
				if host != "" && (host == socket || host == o.Status.Endpoints.TCP) || host == "" && current == dockerenv.ContextName(o.Name) {
					_, err := fmt.Fprintln(a.stdout, o.Name)
					return err
				}
			}
			return &usedError{cmp.Or(host, "the context "+current)}
		},
	}
}

// usedError says what docker talks to, if that is no machine.
type usedError struct{ what string }

func (e *usedError) Error() string {
	return fmt.Sprintf("docker talks to no machine, but to %s", e.what)
}

// Hint says how to change that.
func (e *usedError) Hint() string { return "hyve use NAME makes docker talk to a machine" }

func (a *app) configCommand() *cobra.Command {
	return &cobra.Command{
		Use:               "config [NAME]",
		Short:             "Print the flags that point docker to a machine",
		Example:           `  eval "docker $(hyve config dockerhost | tr '\n' ' ') ps"`,
		Args:              atMostOne,
		ValidArgsFunction: a.completeNames,
		RunE: func(cmd *cobra.Command, args []string) error {
			m, err := a.load(args)
			if err != nil {
				return err
			}
			status, err := running(cmd.Context(), m)
			if err != nil {
				return err
			}
			var all error
			for _, flag := range dockerenv.Flags(status.Endpoints.TCP, string(m.Dir())) {
				_, err := fmt.Fprintln(a.stdout, flag)
				all = errors.Join(all, err)
			}
			return all
		},
	}
}
