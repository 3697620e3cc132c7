package lifecycle

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

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

// A runningMachine is what a supervisor says of one.
type runningMachine struct{ control.Supervisor }

func (runningMachine) Status() (control.Status, <-chan struct{}) {
	return control.Status{State: control.Running}, nil
}

// supervise is a supervisor that finds the machine locked the first time, and has it run
// the second; one with a file "fails" fails at once, one with a file "killed" is killed.
func supervise(dir machine.Dir) {
	ready, err := Inherit()
	if err != nil {
		os.Exit(1)
	}
	if _, err := os.Stat(filepath.Join(string(dir), "fails")); err == nil {
		failure := control.Failure{Cause: "there is no image", Hint: "build one"}
		failure.Keep(dir.Failure())
		ready(nil)
		os.Exit(1)
	}
	if _, err := os.Stat(filepath.Join(string(dir), "killed")); err == nil {
		syscall.Kill(os.Getpid(), syscall.SIGKILL)
	}
	if os.Mkdir(filepath.Join(string(dir), "tried"), 0o700) == nil {
		ready(machine.ErrLocked)
		os.Exit(0)
	}
	l, err := net.Listen("unix", dir.ControlSocket())
	if err := errors.Join(err, os.Chmod(dir.ControlSocket(), 0o600)); err != nil {
		ready(err)
		os.Exit(1)
	}
	ready(nil)
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	control.Serve(ctx, l, runningMachine{})
	os.Exit(0)
}

// A machine that is started while its last run ends starts when that has ended: a
// supervisor that hangs up as it ends was not killed, and one that stops was to stop before.
func TestStartAfterAnEnd(t *testing.T) {
	for name, said := range map[string]string{
		"a hang-up":                "",
		"a hang-up while it stops": "{\"state\": \"Stopping\"}\n",
		"a stop":                   "{\"state\": \"Stopping\"}\n{\"state\": \"Stopped\"}\n",
		"a stop that fails":        "{\"state\": \"Stopping\"}\n{\"state\": \"Stopped\", \"failure\": {\"cause\": \"so\"}}\n",
	} {
		t.Run(name, func(t *testing.T) {
			home, err := os.MkdirTemp("", "") // short enough for a socket
			if err != nil {
				t.Fatal(err)
			}
			defer os.RemoveAll(home)
			keepMachine(t, machine.Home(home), "m", "127.18.0.1")
			m, err := machine.Home(home).Load("m")
			if err != nil {
				t.Fatal(err)
			}
			if err := m.Dir().MakeRunDir(); err != nil {
				t.Fatal(err)
			}
			l, err := net.Listen("unix", m.Dir().ControlSocket())
			if err := errors.Join(err, os.Chmod(m.Dir().ControlSocket(), 0o600)); err != nil {
				t.Fatal(err)
			}
			go http.Serve(l, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.URL.Path == "/watch" {
					io.WriteString(w, said)
					w.(http.Flusher).Flush()
					l.Close()
					panic(http.ErrAbortHandler)
				}
				fmt.Fprintln(w, `{"state": "Stopped"}`)
			}))
			status, err := Start(t.Context(), m, func(control.Status) {})
			if err != nil || status.State != control.Running {
				t.Errorf("it is %q, %v", status.State, err)
			}
		})
	}
}

// Why a machine does not start is told also if its supervisor has ended before anybody
// could ask it.
func TestStartThatFailsAtOnce(t *testing.T) {
	home := machine.Home(t.TempDir())
	keepMachine(t, home, "m", "127.18.0.1")
	m, err := home.Load("m")
	if err == nil {
		err = os.WriteFile(filepath.Join(string(m.Dir()), "fails"), nil, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	var failed *StartError
	if _, err := Start(t.Context(), m, func(control.Status) {}); !errors.As(err, &failed) || failed.Failure.Cause != "there is no image" || failed.Hint() != "build one" {
		t.Errorf("got %v", err)
	}
}

// Of a supervisor that was killed before its first word, no older failure is told.
func TestStartThatIsKilled(t *testing.T) {
	home := machine.Home(t.TempDir())
	keepMachine(t, home, "m", "127.18.0.1")
	m, err := home.Load("m")
	older, before := control.Failure{Cause: "an older run's"}, time.Now().Add(-time.Minute)
	if err == nil {
		err = errors.Join(older.Keep(m.Dir().Failure()), os.Chtimes(m.Dir().Failure(), before, before), os.WriteFile(filepath.Join(string(m.Dir()), "killed"), nil, 0o600))
	}
	if err != nil {
		t.Fatal(err)
	}
	var failed *StartError
	if _, err := Start(t.Context(), m, func(control.Status) {}); !errors.As(err, &failed) || !strings.Contains(failed.Failure.Cause, "killed") {
		t.Errorf("got %v", err)
	}
}
