package lifecycle

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/hyve-vm/hyve/internal/control"
	"github.com/hyve-vm/hyve/internal/machine"
)

// TestMain lets the test's binary be a process that has a lock and does nothing, and a
// supervisor.
func TestMain(m *testing.M) {
	if os.Getenv("HOLD_A_LOCK") != "" {
		fmt.Println("up")
		time.Sleep(time.Minute)
		os.Exit(0)
	}
	if len(os.Args) == 3 && os.Args[1] == "supervise" {
		supervise(machine.Home(os.Getenv("HYVE_HOME")).Dir(os.Args[2]))
	}
	os.Exit(m.Run())
}

// holder starts a process with a command line, which inherits an open lock.
func holder(t *testing.T, lock *os.File, args ...string) (ended func() bool) {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Args = args
	cmd.Env = append(os.Environ(), "HOLD_A_LOCK=1")
	cmd.ExtraFiles = []*os.File{lock}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	out.Read(make([]byte, 1))
	done := make(chan struct{})
	go func() { cmd.Wait(); close(done) }()
	t.Cleanup(func() { cmd.Process.Kill(); <-done })
	return func() bool {
		select {
		case <-done:
			return true
		case <-time.After(200 * time.Millisecond):
			return false
		}
	}
}

var (
	supervisorArgs = []string{"hyve", "supervise", "m"}
	hypervisorArgs = []string{"qemu-system-x86_64", "-name", "guest=hyve-m"}
	commandArgs    = []string{"hyve", "clone", "m", "other"}
)

// What is ended is the machine's, and no command that has its lock.
func TestEndsOfSilentMachines(t *testing.T) {
	kill := func(dir machine.Dir) error { return Kill(context.Background(), dir, "m") }
	begin := func(dir machine.Dir) error { return endOrphan(context.Background(), dir, "m") }
	for name, test := range map[string]struct {
		end     func(machine.Dir) error
		holders [][]string
		listens bool   // a supervisor that is stuck
		ends    bool   // what holds the lock
		err     string // in the error
	}{
		"kill ends an orphan":              {kill, [][]string{hypervisorArgs}, false, true, ""},
		"kill ends a stuck supervisor":     {kill, [][]string{supervisorArgs, hypervisorArgs}, true, true, ""},
		"kill leaves commands alone":       {kill, [][]string{commandArgs}, false, false, "another hyve command"},
		"start ends an orphan":             {begin, [][]string{hypervisorArgs}, false, true, ""},
		"start leaves supervisors alone":   {begin, [][]string{supervisorArgs, hypervisorArgs}, false, false, ""},
		"start leaves new ones alone, too": {begin, [][]string{supervisorArgs}, false, false, ""},
		"start leaves commands alone":      {begin, [][]string{commandArgs}, false, false, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			home, err := os.MkdirTemp("", "") // short enough for a socket
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { os.RemoveAll(home) })
			dir := machine.Home(home).Dir("m")
			if err := os.MkdirAll(string(dir), 0o700); err != nil {
				t.Fatal(err)
			}
			lock, err := dir.Acquire()
			if err != nil {
				t.Fatal(err)
			}
			var ended []func() bool
			for _, args := range test.holders {
				ended = append(ended, holder(t, lock.File(), args...))
			}
			lock.Release()
			reader, err := os.Open(dir.Lock()) // who merely looks
			if err != nil {
				t.Fatal(err)
			}
			defer reader.Close()
			bystander := holder(t, reader, supervisorArgs...)
			if test.listens {
				if err := dir.MakeRunDir(); err != nil {
					t.Fatal(err)
				}
				l, err := net.Listen("unix", dir.ControlSocket())
				if err != nil {
					t.Fatal(err)
				}
				if err := os.Chmod(dir.ControlSocket(), 0o600); err != nil {
					t.Fatal(err)
				}
				defer l.Close()
			}
			switch err := test.end(dir); {
			case test.err == "" && err != nil:
				t.Error(err)
			case test.err != "" && (err == nil || !strings.Contains(err.Error(), test.err)):
				t.Errorf("got error %v, want %q", err, test.err)
			}
			for i, ended := range ended {
				if ended() != test.ends {
					t.Errorf("that %q has ended is not %v", test.holders[i], test.ends)
				}
			}
			if bystander() {
				t.Error("who has no lock has ended")
			}
		})
	}
}

// A start and a listing find out what is with a machine that another process has locked.
func TestWatchable(t *testing.T) {
	for name, test := range map[string]struct {
		args  []string
		want  error
		state control.State
	}{
		"free":                    {nil, errFree, control.Stopped},
		"a supervisor":            {supervisorArgs, new(UnresponsiveError), control.Unresponsive},
		"a command at work on it": {commandArgs, new(BusyError), control.Stopped},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := machine.New(machine.Home(t.TempDir()), machine.Spec{Name: "m"}, netip.Addr{})
			if err := os.MkdirAll(string(m.Dir()), 0o700); err != nil {
				t.Fatal(err)
			}
			if test.args != nil {
				lock, err := m.Dir().Acquire()
				if err != nil {
					t.Fatal(err)
				}
				holder(t, lock.File(), test.args...)
				lock.Release()
			}
			if err := watchable(t.Context(), m); reflect.TypeOf(err) != reflect.TypeOf(test.want) {
				t.Errorf("got %v", err)
			}
			if status, err := Status(t.Context(), m.Dir()); err != nil || status.State != test.state {
				t.Errorf("it is %q, %v", status.State, err)
			}
		})
	}
}

// No word waits for ever for a supervisor that is stuck.
func TestStopOfWhatIsStuck(t *testing.T) {
	t.Parallel()
	home, err := os.MkdirTemp("", "")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(home)
	dir := machine.Home(home).Dir("m")
	if err := errors.Join(os.MkdirAll(string(dir), 0o700), dir.MakeRunDir()); err != nil {
		t.Fatal(err)
	}
	lock, err := dir.Acquire()
	if err != nil {
		t.Fatal(err)
	}
	holder(t, lock.File(), supervisorArgs...)
	lock.Release()
	l, err := net.Listen("unix", dir.ControlSocket())
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir.ControlSocket(), 0o600); err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	m := machine.New(machine.Home(home), machine.Spec{Name: "m"}, netip.Addr{})
	for word, err := range map[string]error{
		"stop":    Stop(ctx, dir, "m", false, nil),
		"suspend": Suspend(ctx, dir, "m", nil),
		"copy":    copyError(copyMachine(ctx, m, machine.Dir(t.TempDir()))),
		"certify": Provision(ctx, m),
	} {
		if !errors.As(err, new(*UnresponsiveError)) {
			t.Errorf("%s: got %v", word, err)
		}
	}
}

func copyError(_ bool, err error) error { return err }

// A machine whose supervisor is stuck does not keep the others from the new certificates,
// and is named.
func TestRenewClientPassesByAStuckMachine(t *testing.T) {
	home := machine.Home(t.TempDir())
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	keepMachine(t, home, "m", "127.18.0.1")
	keepMachine(t, home, "other", "127.18.0.2")
	dir := home.Dir("m")
	lock, err := dir.Acquire()
	if err != nil {
		t.Fatal(err)
	}
	holder(t, lock.File(), supervisorArgs...)
	lock.Release()
	if err := dir.MakeRunDir(); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("unix", dir.ControlSocket()) // which nobody serves
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if err := os.Chmod(dir.ControlSocket(), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := RenewClient(ctx, home); !errors.As(err, new(*UnresponsiveError)) {
		t.Errorf("got %v", err)
	}
	if _, err := os.Stat(filepath.Join(string(home.Dir("other")), "cert.pem")); err != nil {
		t.Error(err)
	}
}

// keepMachine makes a machine that has never run.
func keepMachine(t *testing.T, home machine.Home, name, address string) {
	t.Helper()
	draft, err := home.Draft()
	if err != nil {
		t.Fatal(err)
	}
	defer draft.Discard()
	spec := machine.Spec{Name: name, CPUs: 1, Memory: 1 << 30, Disk: 4 << 30, Image: "sha256:" + strings.Repeat("0", 64)}
	if err := draft.Commit(machine.New(home, spec, netip.MustParseAddr(address))); err != nil {
		t.Fatal(err)
	}
}
