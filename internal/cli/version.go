package cli

import (
	"fmt"
	"runtime"

	"github.com/spf13/cobra"
)

// version is set by the build.
var version = "dev"

// Version is hyve's version, as "v1.2.3" or "dev".
func Version() string { return version }

func (a *app) versionCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Print hyve's version",
		Args:  noArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			_, err := fmt.Fprintf(a.stdout, "hyve version %s %s/%s\n", version, runtime.GOOS, runtime.GOARCH)
			return err
		},
	}
}
