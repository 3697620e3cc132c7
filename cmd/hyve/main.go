// Command hyve gives a developer a Docker host in a lightweight VM.
package main

import (
	"os"

	"github.com/hyve-vm/hyve/internal/cli"
)

func main() { os.Exit(cli.Main(os.Args)) }
