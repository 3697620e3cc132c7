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

// fullVersion is the version with the platform that it was built for.
func fullVersion() string { return version + " " + runtime.GOOS + "/" + runtime.GOARCH }

func (a *app) versionCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Print hyve's version",
		Args:  noArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			_, err := fmt.Fprintf(a.stdout, "hyve version %s\n", fullVersion())
			return err
		},
	}
}
