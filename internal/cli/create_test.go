package cli

import (
	"io"
	"path/filepath"
	"testing"

	"github.com/spf13/cobra"
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
		if _, options, err := a.creation(cmd, c); err != nil || options.Spec.QEMU != want {
			t.Errorf("%q became %q, %v; want %q", given, options.Spec.QEMU, err, want)
		}
	}
}
