package lifecycle

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/hyve-vm/hyve/internal/control"
	"github.com/hyve-vm/hyve/internal/guestapi"
	"github.com/hyve-vm/hyve/internal/machine"
)

// A log that has grown beyond its bound begins anew when a machine starts, but not under
// a supervisor that writes to it.
func TestSupervisorsLogIsBounded(t *testing.T) {
	dir := machine.Home(t.TempDir()).Dir("m")
	if err := os.MkdirAll(dir.Logs(), 0o700); err != nil {
		t.Fatal(err)
	}
	path := dir.Log("supervisor")
	if err := errors.Join(os.WriteFile(path, nil, 0o600), os.Truncate(path, 3*machine.MaxLog)); err != nil {
		t.Fatal(err)
	}
	size := func(path string) int64 {
		info, err := os.Stat(path)
		if err != nil {
			return 0
		}
		return info.Size()
	}
	open := func() {
		t.Helper()
		log, err := openLog(dir)
		if err != nil {
			t.Fatal(err)
		}
		log.Close()
	}
	lock, err := dir.Acquire()
	if err != nil {
		t.Fatal(err)
	}
	open()
	if size(path) <= machine.MaxLog {
		t.Error("the log of a supervisor that writes to it was taken away")
	}
	lock.Release()
	open()
	if size(path) != 0 || size(path+".1") != machine.MaxLog {
		t.Errorf("the log has %d bytes, the older one %d", size(path), size(path+".1"))
	}
}

// What goes through is not ended by a signal, which is told of once and at the end.
func TestThrough(t *testing.T) {
	for _, signal := range []bool{false, true} {
		ctx, interrupt := context.WithCancel(t.Context())
		told := make(chan struct{}, 2)
		through, done := Through(ctx, func() { told <- struct{}{} })
		if signal {
			interrupt()
			<-told
		}
		if through.Err() != nil {
			t.Errorf("signal %t: %v", signal, through.Err())
		}
		if err := done(); errors.Is(err, context.Canceled) != signal {
			t.Errorf("signal %t: done with %v", signal, err)
		}
		interrupt()
		if len(told) > 0 {
			t.Errorf("signal %t: told of it twice or afterwards", signal)
		}
	}
}

// What a supervisor noted before somebody killed it is not why it ended.
func TestEndOf(t *testing.T) {
	for _, test := range []struct{ log, want string }{
		{"", "its supervisor was killed"},
		{"time=2026-01-01T00:00:00Z level=INFO msg=starting\n", "its supervisor was killed"},
		{"time=2026-01-01T00:00:00Z level=INFO msg=starting\nfatal error: out of memory\n", "its supervisor ended: fatal error: out of memory"},
	} {
		path := filepath.Join(t.TempDir(), "log")
		if err := os.WriteFile(path, []byte(test.log), 0o600); err != nil {
			t.Fatal(err)
		}
		if got := endOf(path); got != test.want {
			t.Errorf("of %q: %q, want %q", test.log, got, test.want)
		}
	}
}

// An engine that does not start with what its user has given to it says how that is taken
// back; whatever else fails does not blame it.
func TestHintOfGivenOptions(t *testing.T) {
	given := machine.Boot{EngineOptions: []string{"debug", "bip=foo"}, EngineEnv: []string{"A=b"}}
	for want, e := range map[string]StartError{
		"its engine was given --engine-opt debug, --engine-opt bip=foo, --engine-env A=b; to take that back: hyve set a --engine-opt '' --engine-env ''; hyve logs a shows what it said": {
			Failure: control.Failure{Phase: guestapi.PhaseEngine}, Given: given},
		"its engine was given --engine-opt bip=foo; to take that back: hyve set a --engine-opt ''; hyve logs a shows what it said": {
			Failure: control.Failure{Phase: guestapi.PhaseEngine}, Given: machine.Boot{EngineOptions: []string{"bip=foo"}}},
		"it was removed; its engine was given --engine-opt bip=foo: create it without that, or with another value": {
			Failure: control.Failure{Phase: guestapi.PhaseEngine}, Given: machine.Boot{EngineOptions: []string{"bip=foo"}}, Removed: true},
		"hyve logs a shows what the machine said": {Failure: control.Failure{Phase: guestapi.PhaseDisk}, Given: given},
		"mend it": {Failure: control.Failure{Phase: guestapi.PhaseEngine, Hint: "mend it"}, Given: given},
	} {
		e.Name = "a"
		if got := e.Hint(); got != want {
			t.Errorf("%+v: %s", e, got)
		}
	}
	if got := (&StartError{Name: "a", Failure: control.Failure{Phase: guestapi.PhaseEngine}}).Hint(); got != "hyve logs a shows what the machine said" {
		t.Error(got)
	}
}
