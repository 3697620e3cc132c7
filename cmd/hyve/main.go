// Command hyve gives a developer a Docker host in a lightweight VM. Under the name of
// a driver plugin it serves docker-machine.
package main

import (
	"os"

	"github.com/hyve-vm/hyve/internal/cli"
	"github.com/hyve-vm/hyve/internal/dockermachine/driver"
)

func main() {
	if driver.Called(os.Args[0]) {
		os.Exit(driver.Main(os.Args[0]))
	}
	os.Exit(cli.Main(os.Args))
}
