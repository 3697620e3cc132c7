package cli

import (
	"fmt"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/hyve-vm/hyve/internal/doctor"
)

func (a *app) doctorCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "doctor",
		Short: "Check what hyve needs on this host",
		Args:  noArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			home, err := a.home()
			if err != nil {
				return err
			}
			bad := 0
			w := tabwriter.NewWriter(a.stdout, 5, 1, 2, ' ', 0)
			for _, f := range doctor.Diagnose(cmd.Context(), home) {
				fmt.Fprintf(w, "%s\t%s\t%s\n", f.State, f.What, f.Text)
				if f.Hint != "" {
					fmt.Fprintf(w, "\t\t%s\n", f.Hint)
				}
				if f.State == doctor.Bad {
					bad++
				}
			}
			if err := w.Flush(); err != nil {
				return err
			}
			if bad > 0 {
				return fmt.Errorf("%d of these keep hyve from working", bad)
			}
			return nil
		},
	}
}
