package cli

import (
	"strings"
	"testing"
	"time"

	"github.com/hyve-vm/hyve/internal/control"
	"github.com/hyve-vm/hyve/internal/machine"
)

// A machine that does not answer has no time for which it is up.
func TestStatusWithoutAnswer(t *testing.T) {
	m := makeMachine(t, machine.Home(t.TempDir()), "m")
	for _, test := range []struct {
		status control.Status
		up     bool
	}{
		{control.Status{State: control.Unresponsive}, false},
		{control.Status{State: control.Running, Started: time.Now()}, true},
	} {
		var out strings.Builder
		if err := newApp(nil, &out, nil).printStatus(m, test.status); err != nil {
			t.Fatal(err)
		}
		if got := strings.Contains(out.String(), "up ") && strings.Contains(out.String(), "begun "); got != test.up ||
			!strings.HasPrefix(out.String(), string(test.status.State)+"\n") {
			t.Errorf("printed %s", out.String())
		}
	}
}

// What went wrong is told with the way out.
func TestStatusOfFailure(t *testing.T) {
	m := makeMachine(t, machine.Home(t.TempDir()), "m")
	var out strings.Builder
	status := control.Status{State: control.Running, Failure: &control.Failure{Cause: "the engine is down", Hint: "hyve restart starts it"}}
	if err := newApp(nil, &out, nil).printStatus(m, status); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"the engine is down", "hyve restart starts it"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("printed %q, without %q", out.String(), want)
		}
	}
}

// Why a machine is broken is told of one whose file is good as well.
func TestBrokenInTable(t *testing.T) {
	var out strings.Builder
	a := newApp(nil, &out, nil)
	if err := a.printTable([]listed{{Name: "m", State: control.Broken, CPUs: 1, Error: "asking for a lock: denied"}}); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(out.String(), "asking for a lock: denied") {
		t.Errorf("printed %s", out.String())
	}
}
