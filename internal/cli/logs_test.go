package cli

import (
	"context"
	"io"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/hyve-vm/hyve/internal/machine"
)

// The last line of a log is printed, be its end missing.
func TestUnfinishedLine(t *testing.T) {
	home := machine.Home(t.TempDir())
	m := makeMachine(t, home, "m")
	if err := os.WriteFile(m.Dir().Log("console"), []byte("one\ntwo\nKernel pan"), 0o600); err != nil {
		t.Fatal(err)
	}
	for line, want := range map[string]string{
		"logs m":                                "one two Kernel pan",
		"logs m -n 0":                           "",
		"logs m -n 1":                           "Kernel pan",
		"logs m -n 2":                           "two Kernel pan",
		"logs m --service init":                 "",
		"logs m -f --service=console":           "one two Kernel pan",
		"logs m -n 9 --service=dockerd,console": "one two Kernel pan",
	} {
		var out strings.Builder
		root := newApp(map[string]string{"HYVE_HOME": string(home)}, &out, io.Discard).root()
		root.SetArgs(strings.Fields(line))
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond) // for -f
		if err := root.ExecuteContext(ctx); err != nil {
			t.Errorf("%s: %v", line, err)
		}
		cancel()
		if got := strings.Join(strings.Fields(strings.ReplaceAll(out.String(), "console    | ", "")), " "); got != want {
			t.Errorf("%s: got %q, want %q", line, got, want)
		}
	}
}
