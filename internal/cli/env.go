package cli

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/hyve-vm/hyve/internal/dockerenv"
)

func (a *app) envCommand() *cobra.Command {
	var shell string
	var unset, noProxy bool
	cmd := &cobra.Command{
		Use:   "env [NAME]",
		Short: "Print the variables that point a shell's docker to a machine",
		Example: `  eval "$(hyve env dockerhost)"
  eval "$(hyve env --unset)"`,
		Args:              atMostOne,
		ValidArgsFunction: a.completeNames,
		RunE: func(cmd *cobra.Command, args []string) error {
			if shell == "" {
				shell = dockerenv.DetectShell(a.getenv)
			}
			settings, err := a.settings(cmd, args, unset, noProxy)
			if err != nil {
				return err
			}
			script, err := dockerenv.Script(shell, settings, a.args)
			if err != nil {
				return err
			}
			_, err = fmt.Fprint(a.stdout, script)
			return err
		},
	}
	cmd.Flags().StringVar(&shell, "shell", "", "bash, zsh, fish, tcsh, powershell, cmd or emacs (default: $SHELL)")
	cmd.Flags().BoolVarP(&unset, "unset", "u", false, "print how to take the variables back")
	cmd.Flags().BoolVar(&noProxy, "no-proxy", false, "add the machine to NO_PROXY")
	return cmd
}

func (a *app) settings(cmd *cobra.Command, args []string, unset, noProxy bool) ([]dockerenv.Setting, error) {
	home, err := a.home()
	if err != nil {
		return nil, err
	}
	if unset {
		if len(args) > 0 {
			return nil, &usageError{errors.New("--unset takes no machine"), "see hyve env --help"}
		}
		settings := dockerenv.Unsettings()
		if noProxy {
			addresses, err := home.Addresses()
			if err != nil {
				return nil, err
			}
			texts := make([]string, len(addresses))
			for i, address := range addresses {
				texts[i] = address.String()
			}
			settings = append(settings, dockerenv.WithoutNoProxy(a.getenv, texts...))
		}
		return settings, nil
	}
	m, err := a.load(args)
	if err != nil {
		return nil, err
	}
	status, err := running(cmd.Context(), m)
	if err != nil {
		return nil, err
	}
	settings := dockerenv.Settings(status.Endpoints.TCP, string(m.Dir()), m.Name)
	if noProxy {
		settings = append(settings, dockerenv.NoProxy(a.getenv, m.Address.String()))
	}
	return settings, nil
}
