//go:build linux

package guest

import (
	"crypto/rand"
	"errors"
	"hash/maphash"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// A page of a program that has changed in memory is seen, one that nobody has noted is not,
// nor one that is not in memory.
func TestDamagedPages(t *testing.T) {
	const pages = 100
	size := os.Getpagesize()
	content := make([]byte, pages*size+size/2) // the rest is no whole page
	rand.Read(content)
	path := filepath.Join(t.TempDir(), "program")
	write := func(at int, b []byte) {
		t.Helper()
		file, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE, 0o600)
		if err != nil {
			t.Fatal(err)
		}
		defer file.Close()
		if _, err := file.WriteAt(b, int64(at)); err != nil {
			t.Fatal(err)
		}
	}
	write(0, content)
	seed := maphash.MakeSeed()
	p, err := noteProgram(path, seed)
	if err != nil {
		t.Fatal(err)
	}
	const noted = (pages + eachPage - 1) / eachPage
	expect := func(what string, wantSame, wantDamaged int) {
		t.Helper()
		if same, damaged := p.compare(seed); same != wantSame || damaged != wantDamaged {
			t.Errorf("%s: %d are as they were, %d not; want %d and %d", what, same, damaged, wantSame, wantDamaged)
		}
	}
	expect("nothing has changed", noted, 0)
	write(eachPage*size+7, []byte{^content[eachPage*size+7]}) // one bit would do
	expect("one has changed", noted-1, 1)
	write((eachPage+1)*size, make([]byte, size))
	expect("its neighbour has changed, too", noted-1, 1)
	delete(p.sums, 0)
	expect("the first was not in memory when it was frozen", noted-2, 1)
	os.Remove(path)
	expect("it has ended", 0, 0)
}

// The programs of all processes are noted, and are what they were.
func TestRunningPrograms(t *testing.T) {
	seed := maphash.MakeSeed()
	programs, err := runningPrograms(seed)
	if err != nil {
		t.Fatal(err)
	}
	self, err := os.Stat("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	found := 0
	for _, p := range programs {
		info, err := os.Stat(p.path)
		if err != nil || !os.SameFile(info, self) {
			continue
		}
		found++
		if same, damaged := p.compare(seed); same == 0 || damaged > 0 {
			t.Errorf("this test's pages: %d are as they were, %d not", same, damaged)
		}
	}
	if found != 1 {
		t.Errorf("this test's program is noted %d times", found)
	}
}

// The first complaint of the kernel's is told, each once; what nobody has read in time is
// passed over.
func TestFirstComplaint(t *testing.T) {
	ends, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_NONBLOCK, 0) // a record a read, too
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(ends[0])
	defer unix.Close(ends[1])
	log := func(records ...string) {
		t.Helper()
		for _, record := range records {
			if _, err := unix.Write(ends[1], []byte(record)); err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, test := range []struct {
		records []string
		want    string
	}{
		{nil, ""},
		{[]string{"6,1,1,-;all is well", "4,2,2,-;first", "4,3,3,-;second"}, "first"},
		{nil, ""},
		{[]string{"4,4,4,-;hrtimer: interrupt took 1 ns"}, ""},
	} {
		log(test.records...)
		if got, err := firstComplaint(ends[0]); err != nil || got != test.want {
			t.Errorf("%q: %q, %v", test.records, got, err)
		}
	}
}

// A guest that has noted nothing cannot say that it is well.
func TestExamineWithoutNote(t *testing.T) {
	if e, err := new(examiner).examine(false); err == nil {
		t.Errorf("it says %+v", e)
	} else if pathErr := (*os.PathError)(nil); errors.As(err, &pathErr) {
		t.Error(err)
	}
}
