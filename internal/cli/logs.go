package cli

import (
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/hyve-vm/hyve/internal/logs"
)

func (a *app) logsCommand() *cobra.Command {
	var options logs.Options
	cmd := &cobra.Command{
		Use:               "logs [NAME]",
		Short:             "Print a machine's logs",
		Long:              "Print the logs of a machine's parts, each line with its part before it:\n" + strings.Join(logs.Services, ", ") + ".",
		Args:              atMostOne,
		ValidArgsFunction: a.completeNames,
		RunE: func(cmd *cobra.Command, args []string) error {
			for _, service := range options.Services {
				if !slices.Contains(logs.Services, service) {
					return &usageError{fmt.Errorf("there is no log named %q", service), "these are: " + strings.Join(logs.Services, ", ")}
				}
			}
			home, err := a.home()
			if err != nil {
				return err
			}
			name, err := a.resolve(home, args)
			if err != nil {
				return err
			}
			if err := mustExist(home, name); err != nil {
				return err
			}
			return logs.Print(cmd.Context(), a.stdout, home.Dir(name), options)
		},
	}
	cmd.Flags().BoolVarP(&options.Follow, "follow", "f", false, "print new lines as they come")
	cmd.Flags().IntVarP(&options.Tail, "tail", "n", -1, "print only the last `N` lines of each part")
	cmd.Flags().StringSliceVar(&options.Services, "service", logs.Services, "print only these parts")
	return cmd
}
