package supervisor

import (
	"strings"
	"testing"

	"github.com/hyve-vm/hyve/internal/control"
	"github.com/hyve-vm/hyve/internal/guestapi"
)

// A guest says why it failed in two lines at most, whatever it says.
func TestGuestsFailureIsBriefText(t *testing.T) {
	long := strings.Repeat("\u00e9", 10000)
	for _, test := range []struct{ cause, want, hint string }{
		{"dockerd exited with status 1: unknown flag: --x", "dockerd exited with status 1: unknown flag: --x", ""},
		{"the disk is full\nmake it larger\nand more\n", "the disk is full", "make it larger"},
		{"\x1b[2J\u009b\xff", "?[2J??", ""},
		{long + "\n" + long, guestapi.NewProse(long).String(), ""},
	} {
		got := failureOf(&guestapi.Failed{Phase: guestapi.NewText("en\ngine"), Cause: guestapi.NewProse(test.cause)})
		if want := (control.Failure{Phase: "en?gine", Cause: test.want, Hint: test.hint}); *got != want {
			t.Errorf("%.40q: %+v", test.cause, got)
		}
	}
}
