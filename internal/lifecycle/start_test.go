package lifecycle

import (
	"os"
	"testing"

	"github.com/hyve-vm/hyve/internal/machine"
)

// Logs that have grown beyond their bound begin anew when a machine starts, but not
// under a supervisor that writes to them.
func TestLogsAreBounded(t *testing.T) {
	dir := machine.Home(t.TempDir()).Dir("m")
	if err := os.MkdirAll(dir.Logs(), 0o700); err != nil {
		t.Fatal(err)
	}
	for _, service := range []string{"supervisor", "console"} {
		if err := os.WriteFile(dir.Log(service), nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Truncate(dir.Log(service), machine.MaxLog+1); err != nil {
			t.Fatal(err)
		}
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
		log, err := openLogs(dir)
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
	for _, service := range []string{"supervisor", "console"} {
		if size(dir.Log(service)) <= machine.MaxLog {
			t.Errorf("the log of a %s that writes to it was taken away", service)
		}
	}
	lock.Release()
	open()
	for _, service := range []string{"supervisor", "console"} {
		if size(dir.Log(service)) != 0 || size(dir.Log(service)+".1") <= machine.MaxLog {
			t.Errorf("the log of the %s has %d bytes, the older one %d", service, size(dir.Log(service)), size(dir.Log(service)+".1"))
		}
	}
}
