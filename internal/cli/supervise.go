package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/hyve-vm/hyve/internal/hint"
	"github.com/hyve-vm/hyve/internal/lifecycle"
	"github.com/hyve-vm/hyve/internal/machine"
	"github.com/hyve-vm/hyve/internal/supervisor"
)

// superviseCommand is what lifecycle.Start executes; users do not.
func (a *app) superviseCommand() *cobra.Command {
	var leash bool
	cmd := &cobra.Command{
		Use:    "supervise NAME",
		Hidden: true,
		Args:   cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			home, err := a.home()
			if err != nil {
				return err
			}
			var end io.Reader
			if leash {
				end = a.stdin
			}
			if err := dropInherited(); err != nil {
				return err
			}
			starter := os.NewFile(lifecycle.ReadyFD, "starter")
			// Signals are the supervisor's own: the first one must not cut it short.
			return supervisor.Run(context.WithoutCancel(cmd.Context()), home, args[0], end, func(err error) {
				tellStarter(starter, err)
			})
		},
	}
	cmd.Flags().BoolVar(&leash, "leash", false, "kill the machine when standard input ends")
	return cmd
}

// dropInherited closes what whoever ran hyve had open and did not mean for it: a supervisor
// outlives its starter, and would keep a pipe or a lock of theirs for days. What this
// process has opened itself is marked to be closed at an exec, so what is not is theirs.
func dropInherited() error {
	entries, err := os.ReadDir("/dev/fd")
	if err != nil {
		return fmt.Errorf("looking for inherited descriptors: %w", err)
	}
	for _, e := range entries {
		fd, err := strconv.Atoi(e.Name())
		if err != nil || fd <= lifecycle.ReadyFD {
			continue
		}
		if flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); err == nil && flags&unix.FD_CLOEXEC == 0 {
			unix.Close(fd)
		}
	}
	return nil
}

// tellStarter answers on lifecycle.ReadyFD, as its comment says.
func tellStarter(starter *os.File, err error) {
	defer starter.Close()
	switch {
	case err == nil:
	case errors.Is(err, machine.ErrLocked):
		fmt.Fprintln(starter, "locked")
	default:
		fmt.Fprintf(starter, "%v\n%s\n", err, hint.Of(err))
	}
}
