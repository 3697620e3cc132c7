// Command docker-machine-driver-xhyve lets docker-machine make hyve machines. It is
// all of hyve, since a machine's supervisor is started by whoever starts the machine:
// hyve under this name is the same.
package main

import (
	"os"

	"github.com/hyve-vm/hyve/internal/cli"
	"github.com/hyve-vm/hyve/internal/dockermachine/driver"
)

func main() {
	if os.Args[0] == "hyve" { // as which a supervisor is started
		os.Exit(cli.Main(os.Args))
	}
	os.Exit(driver.Main(os.Args[0]))
}
