//go:build linux

// Command hyve-init is PID 1 of the virtual machine. Under other names it is the
// guest's docker-proxy and its poweroff, reboot, halt, shutdown, sethostname and
// /etc/init.d/docker.
package main

import (
	"os"

	"github.com/hyve-vm/hyve/internal/guest"
)

func main() { os.Exit(guest.Run(os.Args)) }
