// Command hyve gives a developer a Docker host in a lightweight VM. Under the name
// docker-machine it speaks that one's language, and under the name of a driver plugin
// it serves the real docker-machine.
package main

import (
	"os"

	"github.com/hyve-vm/hyve/internal/cli"
	"github.com/hyve-vm/hyve/internal/dockermachine"
	"github.com/hyve-vm/hyve/internal/dockermachine/driver"
)

func main() {
	switch argv0 := os.Args[0]; {
	case dockermachine.Called(argv0):
		os.Exit(dockermachine.Main(os.Args, cli.Version()))
	case driver.Called(argv0):
		os.Exit(driver.Main(argv0))
	}
	os.Exit(cli.Main(os.Args))
}
