package lifecycle

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"testing"
	"time"

	"github.com/hyve-vm/hyve/internal/control"
	"github.com/hyve-vm/hyve/internal/frozen"
	"github.com/hyve-vm/hyve/internal/machine"
)

// A machine that is stopped cold boots next, also if it was frozen before. One that is
// suspended keeps its containers.
func TestStopFrozenCold(t *testing.T) {
	for _, suspended := range []bool{false, true} {
		dir := machine.Dir(t.TempDir())
		if err := os.WriteFile(dir.Disk(), nil, 0o600); err != nil {
			t.Fatal(err)
		}
		draft, err := frozen.New(dir.Frozen(), 1<<20)
		if err != nil {
			t.Fatal(err)
		}
		draft.Suspended = suspended
		if err := errors.Join(os.WriteFile(draft.Devices(), nil, 0o600), draft.Commit("shape", dir.Disk())); err != nil {
			t.Fatal(err)
		}
		stop := func(cold bool) error {
			return Stop(context.Background(), dir, "m", cold, func(control.Status) {})
		}
		if err := stop(false); !errors.Is(err, ErrAlready) {
			t.Error(err)
		}
		if exists, _ := frozen.Exists(dir.Frozen()); !exists {
			t.Error("its state is gone")
		}
		err = stop(true)
		if refused := (*SuspendedError)(nil); errors.As(err, &refused) != suspended || !suspended && !errors.Is(err, ErrAlready) {
			t.Errorf("suspended %t: %v", suspended, err)
		}
		if exists, _ := frozen.Exists(dir.Frozen()); exists != suspended {
			t.Errorf("suspended %t: its state is there: %t", suspended, exists)
		}
	}
}

// A machine that is started again as soon as it has stopped has stopped.
func TestStopOfWhatIsStartedAgain(t *testing.T) {
	home, err := os.MkdirTemp("", "") // short enough for a socket
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(home)
	dir := machine.Home(home).Dir("m")
	if err := errors.Join(machine.Home(home).Make(), dir.MakeRunDir()); err != nil {
		t.Fatal(err)
	}
	lock, err := dir.Acquire()
	if err != nil {
		t.Fatal(err)
	}
	defer lock.Release()
	l, err := net.Listen("unix", dir.ControlSocket())
	if err := errors.Join(err, os.Chmod(dir.ControlSocket(), 0o600)); err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go http.Serve(l, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/watch":
			io.WriteString(w, "{\"state\": \"Stopped\", \"pid\": 1}\n")
		case "/status":
			io.WriteString(w, `{"state": "Starting", "pid": 2}`)
		}
	}))
	began := time.Now()
	if err := Stop(t.Context(), dir, "m", false, func(control.Status) {}); err != nil || time.Since(began) > endTimeout/2 {
		t.Errorf("after %v: %v", time.Since(began), err)
	}
}
