package cli

import (
	"io"
	"maps"
	"path/filepath"
	"strings"
	"testing"

	"github.com/spf13/cobra"

	"github.com/hyve-vm/hyve/internal/dockerenv"
	"github.com/hyve-vm/hyve/internal/lifecycle"
	"github.com/hyve-vm/hyve/internal/machine"
)

// newApp is an app whose environment is env and whose output is written to out.
func newApp(env map[string]string, stdout, stderr io.Writer) *app {
	return &app{getenv: func(name string) string { return env[name] }, stdout: stdout, stderr: stderr}
}

// A QEMU that is named from here is found from the machine's directory, too.
func TestRelativeQEMU(t *testing.T) {
	here := t.TempDir()
	t.Chdir(here)
	for given, want := range map[string]string{
		"":              "",
		"./qemu":        filepath.Join(here, "qemu"),
		"bin/../qemu":   filepath.Join(here, "qemu"),
		"/opt/qemu":     "/opt/qemu",
		"qemu-system-x": "qemu-system-x",
	} {
		a := newApp(map[string]string{"HYVE_HOME": here, "HOME": here}, nil, nil)
		c := &creation{}
		cmd := &cobra.Command{}
		c.flags(cmd.Flags())
		if err := cmd.Flags().Parse([]string{"--qemu", given}); err != nil {
			t.Fatal(err)
		}
		if _, options, err := a.creation(cmd, c); err != nil || options.Spec.Hypervisor != want {
			t.Errorf("%q became %q, %v; want %q", given, options.Spec.Hypervisor, err, want)
		}
	}
}

// Only the first machine may become docker's own; where it does not, its user hears why.
func TestIntroduction(t *testing.T) {
	for name, test := range map[string]struct {
		other  bool
		env    map[string]string
		says   string
		silent string
	}{
		"the first, DOCKER_HOST set": {false, map[string]string{"DOCKER_HOST": "tcp://x"}, "keeps its current context: DOCKER_HOST is set", "uses machine"},
		"not the first":              {true, nil, "use it with: docker --context hyve-m", "docker uses"},
	} {
		t.Run(name, func(t *testing.T) {
			home := machine.Home(t.TempDir())
			env := map[string]string{"HYVE_HOME": string(home), "DOCKER_CONFIG": t.TempDir()}
			maps.Copy(env, test.env)
			var said strings.Builder
			a := newApp(env, nil, &said)
			contexts, err := dockerenv.OpenStore(a.getenv, string(home))
			if err != nil {
				t.Fatal(err)
			}
			m := makeMachine(t, home, "m")
			if test.other {
				makeMachine(t, home, "other")
			}
			if err := lifecycle.OfferContext(contexts, m); err != nil {
				t.Fatal(err)
			}
			if err := a.introduce(t.Context(), m, lifecycle.CreateOptions{Contexts: contexts}); err != nil {
				t.Fatal(err)
			}
			if !strings.Contains(said.String(), test.says) || strings.Contains(said.String(), test.silent) {
				t.Errorf("said %q", said.String())
			}
			if current, err := contexts.Current(); err != nil || current != "default" {
				t.Errorf("docker's context is %s, %v", current, err)
			}
		})
	}
}
