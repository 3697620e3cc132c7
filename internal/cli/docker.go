package cli

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/hyve-vm/hyve/internal/machine"
)

func (a *app) dockerCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "docker [-m NAME] ARGUMENTS...",
		Short: "Run docker against a machine",
		Long: `Run the host's docker client against a machine; where the host has none, the
client in the machine, which sees the machine's files.`,
		Example:            "  hyve docker run --rm busybox echo 'plop!'\n  hyve docker -m build compose up",
		DisableFlagParsing: true,
		RunE: func(cmd *cobra.Command, args []string) error {
			name, args, err := dockerArgs(args)
			if err != nil {
				return err
			}
			m, err := a.load(name)
			if err != nil {
				return err
			}
			if _, err := running(cmd.Context(), m); err != nil {
				return err
			}
			return a.docker(cmd.Context(), m, args)
		},
	}
}

// dockerArgs takes a leading -m NAME off docker's own arguments.
func dockerArgs(args []string) (name, rest []string, err error) {
	if len(args) == 0 {
		return nil, nil, nil
	}
	if value, ok := strings.CutPrefix(args[0], "--machine="); ok {
		return []string{value}, args[1:], nil
	}
	if args[0] != "-m" && args[0] != "--machine" {
		return nil, args, nil
	}
	if len(args) < 2 {
		return nil, nil, &usageError{errors.New(args[0] + " needs the name of a machine"), "see hyve docker --help"}
	}
	return args[1:2], args[2:], nil
}

// docker becomes the host's docker client, or runs the guest's.
func (a *app) docker(ctx context.Context, m *machine.Machine, args []string) error {
	path, err := exec.LookPath("docker")
	if err != nil {
		return a.runInGuest(ctx, m, "docker "+quoteWords(args), "")
	}
	if err := syscall.Exec(path, append([]string{"docker"}, args...), environment(m)); err != nil {
		return fmt.Errorf("running %s: %w", path, err)
	}
	return nil // not reached
}

// environment is this process' for a program whose docker is a machine's.
func environment(m *machine.Machine) []string {
	env := []string{"DOCKER_HOST=unix://" + m.Dir().DockerSocket()}
	for _, e := range os.Environ() {
		switch name, _, _ := strings.Cut(e, "="); name {
		case "DOCKER_HOST", "DOCKER_CONTEXT", "DOCKER_TLS_VERIFY", "DOCKER_CERT_PATH", "DOCKER_TLS":
		default:
			env = append(env, e)
		}
	}
	return env
}

// plainWord is a word that means itself to every shell.
var plainWord = regexp.MustCompile(`^[A-Za-z0-9_@%+=:,./-]+$`)

// quoteWords makes words one line for a POSIX shell.
func quoteWords(words []string) string {
	quoted := make([]string, len(words))
	for i, w := range words {
		if !plainWord.MatchString(w) {
			w = "'" + strings.ReplaceAll(w, "'", `'\''`) + "'"
		}
		quoted[i] = w
	}
	return strings.Join(quoted, " ")
}
