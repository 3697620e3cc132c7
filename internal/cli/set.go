package cli

import (
	"errors"
	"strings"

	"github.com/spf13/cobra"

	"github.com/hyve-vm/hyve/internal/lifecycle"
)

func (a *app) setCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "set NAME SETTING=VALUE...",
		Short: "Change settings of a machine",
		Long: `Change settings of a machine, which may run:

  idle=15m   let the machine fall asleep when nothing runs in it and nobody has talked
             to it for that long; whatever comes for it wakes it
  idle=off   never, which is the default`,
		Example:           "  hyve set dockerhost idle=15m",
		ValidArgsFunction: a.completeNames,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) < 2 {
				return &usageError{errors.New("a machine and SETTING=VALUE are expected"), "see hyve set --help"}
			}
			m, err := a.load(args[:1])
			if err != nil {
				return err
			}
			for _, arg := range args[1:] {
				setting, value, _ := strings.Cut(arg, "=")
				if err := lifecycle.Set(cmd.Context(), m, setting, value); err != nil {
					return err
				}
			}
			return nil
		},
	}
}
