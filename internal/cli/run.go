package cli

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/hyve-vm/hyve/internal/lifecycle"
	"github.com/hyve-vm/hyve/internal/machine"
	"github.com/hyve-vm/hyve/internal/terminal"
)

func (a *app) runCommand() *cobra.Command {
	var create creation
	var from string
	cmd := &cobra.Command{
		Use:   "run --rm [--from NAME] -- COMMAND...",
		Short: "Run a command with a machine of its own",
		Long: `Run a command on this host with a machine of its own to which docker talks, and
remove the machine when the command ends. The command's exit status is passed on.
With --from the machine is a copy of another one.`,
		Example: "  hyve run --rm -- docker run --rm busybox echo 'plop!'\n  hyve run --rm --from dockerhost -- make test",
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return &usageError{errors.New("a command is expected"), "see hyve run --help"}
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			path, err := exec.LookPath(args[0])
			if err != nil {
				return err
			}
			if create.options.Spec.Name == "" {
				create.options.Spec.Name = throwawayName()
			}
			home, options, err := a.creation(cmd, &create)
			if err != nil {
				return err
			}
			var origin *machine.Machine
			if from != "" {
				if origin, err = home.Load(from); err != nil {
					return err
				}
			}
			show := a.newDisplay(false)
			defer show.close()
			return lifecycle.Throwaway(cmd.Context(), home, options, origin, show.follower(options.Spec.Name), func(m *machine.Machine) error {
				show.close()
				return a.runBeside(m, path, args)
			})
		},
	}
	f := cmd.Flags()
	f.SetInterspersed(false)
	f.Bool("rm", true, "remove the machine afterwards, which is always done")
	f.StringVar(&from, "from", "", "copy machine `NAME` instead of making a new one")
	f.StringVar(&create.options.Spec.Name, "name", "", "`NAME` of the machine (default: a random one)")
	create.flags(f)
	return cmd
}

// throwawayName draws a name.
func throwawayName() string {
	b := make([]byte, 4)
	rand.Read(b) // never fails
	return "run-" + hex.EncodeToString(b)
}

// runBeside runs a command on the host whose docker is a machine's, and waits for it.
func (a *app) runBeside(m *machine.Machine, path string, args []string) error {
	cmd := exec.Command(path)
	cmd.Args = args
	cmd.Env = append(environment(m), "HYVE_MACHINE="+m.Name)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = a.stdin, terminal.Raw(a.stdout), terminal.Raw(a.stderr)
	signals := make(chan os.Signal, 8)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGQUIT)
	defer signal.Stop(signals)
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("running %s: %w", path, err)
	}
	go func() {
		onTerminal := term.IsTerminal(int(os.Stdin.Fd()))
		for s := range signals {
			if onTerminal && (s == os.Interrupt || s == syscall.SIGQUIT) {
				continue // the terminal has told the command as well
			}
			cmd.Process.Signal(s)
		}
	}()
	return exitOf(path, cmd.Wait())
}
