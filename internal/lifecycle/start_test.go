package lifecycle

import (
	"errors"
	"os"
	"testing"

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
