package frozen

import (
	"errors"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// mapped is the fixture's disk in this program's memory, written to once.
func (f *fixture) mapped() []byte {
	f.t.Helper()
	file, err := os.OpenFile(f.disk, os.O_RDWR, 0)
	if err != nil {
		f.t.Fatal(err)
	}
	defer file.Close() // the mapping stays
	b, err := unix.Mmap(int(file.Fd()), 0, 4, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		f.t.Fatal(err)
	}
	f.t.Cleanup(func() { unix.Munmap(b) })
	b[0] = 'D'
	return b
}

// A program that has the disk mapped could write to it without a trace: its pages are
// dirty already. So nothing is frozen over it.
func TestMappedDisk(t *testing.T) {
	f := newFixture(t)
	disk := f.mapped()
	d := f.begin()
	defer d.Discard()
	f.write(d.Devices(), "devices")
	err := d.Commit("shape", f.disk)
	disk[1] = 'I'
	if err == nil || !strings.Contains(err.Error(), "another program") {
		t.Errorf("frozen over a disk that somebody writes to: %v", err)
	}
	if _, err := Inspect(f.dir).Take("shape", f.disk); err == nil {
		t.Error("and thawed")
	}
}

// Who only reads, as a backup does, keeps nobody from freezing.
func TestReadDisk(t *testing.T) {
	f := newFixture(t)
	file, err := os.Open(f.disk)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	f.freeze()
	if _, err := Inspect(f.dir).Take("shape", f.disk); err != nil {
		t.Error(err)
	}
}

// Where nobody tells who has a file open, what is written to it later leaves a trace.
func TestMappedDiskWithoutLeases(t *testing.T) {
	f := newFixture(t)
	disk := f.mapped()
	file, err := os.Open(f.disk)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	before, err := settle(file, func(*os.File) error { return errors.ErrUnsupported })
	if err != nil {
		t.Fatal(err)
	}
	waitForClock(t, f.disk, before)
	disk[1] = 'I'
	if now, err := stampOf(f.disk); err != nil || now == before {
		t.Errorf("no trace: %v", err)
	}
}

// waitForClock waits until the clock of the disk's file system has gone on.
func waitForClock(t *testing.T, disk string, last stamp) {
	t.Helper()
	for {
		if err := os.WriteFile(disk+".clock", nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if now, err := stampOf(disk + ".clock"); err != nil || now.Changed > last.Changed {
			return
		}
	}
}
