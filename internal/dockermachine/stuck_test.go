package dockermachine

import (
	"errors"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hyve-vm/hyve/internal/lifecycle"
	"github.com/hyve-vm/hyve/internal/machine"
)

// stuckSupervisor makes a process that has a machine's lock and answers nothing.
func stuckSupervisor(t *testing.T, dir machine.Dir) {
	t.Helper()
	lock, err := dir.Acquire()
	if err != nil {
		t.Fatal(err)
	}
	defer lock.Release()
	cmd := exec.Command("/bin/sh")
	cmd.Args = []string{"hyve", "supervise"} // which to a shell is a script's name
	cmd.Dir = t.TempDir()
	cmd.ExtraFiles = []*os.File{lock.File()}
	if err := os.WriteFile(filepath.Join(cmd.Dir, "supervise"), []byte("echo up; read x\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	in, err1 := cmd.StdinPipe()
	out, err2 := cmd.StdoutPipe()
	if err := errors.Join(err1, err2, cmd.Start()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { in.Close(); cmd.Wait() })
	out.Read(make([]byte, 1))
}

// Of a machine whose supervisor is stuck no word says that it is not running: there is a
// way out, and to start it is none.
func TestStuckMachine(t *testing.T) {
	home := machine.Home(t.TempDir())
	m := machine.New(home, machine.Spec{Name: "stuck"}, netip.MustParseAddr("127.0.0.1"))
	if err := errors.Join(home.Make(), os.MkdirAll(string(m.Dir()), 0o700)); err != nil {
		t.Fatal(err)
	}
	stuckSupervisor(t, m.Dir())
	c := &client{stdout: io.Discard, stderr: io.Discard, log: io.Discard, home: home}
	h := &host{name: m.Name, machine: m}
	_, up := h.up(t.Context())
	for what, err := range map[string]error{
		"up": up, "provision": c.provision(t.Context(), h, lifecycle.Provision), "regenerate-certs": c.regenerate(t.Context(), h),
	} {
		if want := new(lifecycle.UnresponsiveError); !errors.As(err, &want) || strings.Contains(err.Error(), "not running") {
			t.Errorf("%s: %v", what, err)
		}
	}
}
