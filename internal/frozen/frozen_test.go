package frozen

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// A fixture is a machine's directory with a disk and a state.
type fixture struct {
	t         *testing.T
	dir, disk string
}

func newFixture(t *testing.T) *fixture {
	t.Helper()
	base := t.TempDir()
	f := &fixture{t, filepath.Join(base, "frozen"), filepath.Join(base, "disk.img")}
	f.write(f.disk, "disk")
	f.freeze()
	return f
}

func (f *fixture) write(path, text string) {
	f.t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		f.t.Fatal(err)
	}
}

// memory is what the VM remembers.
var memory = append(bytes.Repeat([]byte("memory.."), 1<<15), make([]byte, 1<<20)...)

func (f *fixture) begin() *Draft {
	f.t.Helper()
	d, err := New(f.dir, int64(len(memory)))
	if err == nil {
		err = d.Memory().WriteAt(memory, 0)
	}
	if err != nil {
		f.t.Fatal(err)
	}
	return d
}

func (f *fixture) freeze() {
	f.t.Helper()
	d := f.begin()
	defer d.Discard()
	f.write(d.Devices(), "devices")
	if err := d.Commit("shape", f.disk); err != nil {
		f.t.Fatal(err)
	}
}

// empty asserts that nothing of any state is left.
func (f *fixture) empty() {
	f.t.Helper()
	left, err := filepath.Glob(f.dir + "*")
	if err != nil || len(left) > 0 {
		f.t.Errorf("left: %q, %v", left, err)
	}
}

func TestTakeOnce(t *testing.T) {
	f := newFixture(t)
	if exists, suspended := Exists(f.dir); !exists || suspended {
		t.Error("the state is not there, or another")
	}
	s, err := Inspect(f.dir).Take("shape", f.disk)
	if err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{s.Devices: "devices", s.Memory: string(memory)} {
		if text, _ := os.ReadFile(path); string(text) != want {
			t.Errorf("%s holds %d bytes, not what was written", path, len(text))
		}
	}
	s.Discard()
	if exists, _ := Exists(f.dir); exists {
		t.Error("the state is still there")
	}
	if _, err := Inspect(f.dir).Take("shape", f.disk); !errors.Is(err, ErrNone) {
		t.Errorf("a second time: %v", err)
	}
	f.empty()
}

func TestMisfits(t *testing.T) {
	for name, test := range map[string]struct {
		do        func(f *fixture)
		want      string
		plausible bool // before its content is known
	}{
		"written since": {func(f *fixture) { f.write(f.disk, "DISK") }, "has changed", false},
		"grown":         {func(f *fixture) { os.Truncate(f.disk, 99) }, "has changed", false},
		"restored from a backup": {func(f *fixture) {
			info, _ := os.Stat(f.disk)
			os.Rename(f.disk, f.disk+"~")
			f.write(f.disk, "disk")
			os.Chtimes(f.disk, time.Now(), info.ModTime())
		}, "has changed", false},
		"written, and the clock turned back": {func(f *fixture) {
			info, _ := os.Stat(f.disk)
			f.write(f.disk, "DISK")
			os.Chtimes(f.disk, time.Now(), info.ModTime())
		}, "has changed", false},
		"no disk":             {func(f *fixture) { os.Remove(f.disk) }, "no such file", false},
		"cut off":             {func(f *fixture) { os.Truncate(devicesPath(f.dir), 2) }, "it is damaged", true},
		"bits turned":         {func(f *fixture) { f.write(memoryPath(f.dir), "M"+string(memory[1:])) }, "it is damaged", true},
		"no memory":           {func(f *fixture) { os.Remove(memoryPath(f.dir)) }, "no such file", true},
		"damaged description": {func(f *fixture) { f.write(manifestPath(f.dir), "{") }, "description is damaged", false},
		"another version":     {func(f *fixture) { f.write(manifestPath(f.dir), `{"format":99}`) }, "another version", false},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t)
			test.do(f)
			if Inspect(f.dir).MightFit("shape", f.disk) != test.plausible {
				t.Errorf("that it is plausible is not %t", test.plausible)
			}
			_, err := Inspect(f.dir).Take("shape", f.disk)
			if misfit := (*MisfitError)(nil); !errors.As(err, &misfit) || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got %v, want %q", err, test.want)
			}
			f.empty()
		})
	}
	f := newFixture(t)
	if _, err := Inspect(f.dir).Take("another", f.disk); err == nil {
		t.Error("another shape takes it")
	}
	f.empty()
}

// Whatever a process that was killed has left is nothing.
func TestHalfMade(t *testing.T) {
	f := newFixture(t)
	f.begin() // drops the one that was
	if _, err := Inspect(f.dir).Take("shape", f.disk); !errors.Is(err, ErrNone) {
		t.Errorf("a half-made state: %v", err)
	}
	f.empty()

}

// A state that was taken is put back if nothing ran: by whoever took it, or by the next
// who looks where that process was killed. In between it is seen to be there.
func TestPutBack(t *testing.T) {
	take := func(f *fixture) *State {
		f.t.Helper()
		s, err := Inspect(f.dir).Take("shape", f.disk)
		if err != nil {
			f.t.Fatal(err)
		}
		return s
	}
	for name, test := range map[string]struct {
		then func(f *fixture, s *State)
		want error // of the next Take
	}{
		"put back":                     {then: func(f *fixture, s *State) { s.PutBack() }},
		"killed before anything ran":   {then: func(*fixture, *State) {}},
		"it ran":                       {func(f *fixture, s *State) { s.Discard() }, ErrNone},
		"killed, and it ran":           {func(f *fixture, s *State) { f.write(f.disk, "DISK") }, &MisfitError{}},
		"killed while it was put away": {func(f *fixture, s *State) { os.Remove(manifestPath(s.taken)) }, ErrNone},
		"the host crashed":             {func(f *fixture, s *State) { f.write(markPath(s.taken), "before") }, ErrNone},
		"crashed, mark and all":        {func(f *fixture, s *State) { os.Remove(markPath(s.taken)) }, ErrNone},
		"dropped":                      {func(f *fixture, s *State) { Drop(f.dir) }, ErrNone},
		"another was frozen since":     {func(f *fixture, s *State) { f.freeze() }, nil},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t)
			test.then(f, take(f))
			unfit := (*MisfitError)(nil)
			if exists, _ := Exists(f.dir); exists == errors.Is(test.want, ErrNone) {
				t.Errorf("it is seen to be there: %t", exists)
			}
			s, err := Inspect(f.dir).Take("shape", f.disk)
			if errors.As(test.want, &unfit) {
				if !errors.As(err, &unfit) || !strings.Contains(err.Error(), "has changed") {
					t.Error(err)
				}
			} else if !errors.Is(err, test.want) {
				t.Error(err)
			}
			if err == nil {
				if text, _ := os.ReadFile(s.Memory); string(text) != string(memory) {
					t.Error("it has another memory")
				}
				s.Discard()
			}
			f.empty()
		})
	}
	// A machine that was about to be resumed can be copied.
	f := newFixture(t)
	take(f)
	to := filepath.Join(t.TempDir(), "frozen")
	f.write(to+".disk", "disk")
	if err := Link(to, to+".disk", f.dir, f.disk); err != nil {
		t.Error(err)
	}
}

func TestLink(t *testing.T) {
	from := newFixture(t)
	to := filepath.Join(t.TempDir(), "frozen")
	disk := to + ".disk"
	from.write(disk, "disk")
	if err := Link(to, disk, from.dir, from.disk); err != nil {
		t.Fatal(err)
	}
	s, err := Inspect(to).Take("shape", disk)
	if err != nil {
		t.Fatal(err)
	}
	s.Discard()
	if _, err := Inspect(from.dir).Take("shape", from.disk); err != nil {
		t.Errorf("the first one's: %v", err)
	}
}

// Whatever a description says, a state that is not this machine's is none, and one that
// is too long is not read.
func FuzzDescription(f *testing.F) {
	fix := func() *fixture {
		base := f.TempDir()
		x := &fixture{nil, filepath.Join(base, "frozen"), filepath.Join(base, "disk.img")}
		if err := errors.Join(os.Mkdir(x.dir, 0o700), os.WriteFile(x.disk, []byte("disk"), 0o600)); err != nil {
			f.Fatal(err)
		}
		return x
	}()
	f.Add([]byte(`{"format":1,"shape":"shape","suspended":true}`))
	f.Add([]byte(`{"disk":{"size":-1}}`))
	f.Add([]byte(strings.Repeat("[", 20_000)))
	f.Add(bytes.Repeat([]byte(" "), 2<<20))
	f.Fuzz(func(t *testing.T, data []byte) {
		if err := os.WriteFile(manifestPath(fix.dir), data, 0o600); err != nil {
			t.Fatal(err)
		}
		Exists(fix.dir)
		var unfit *MisfitError
		if _, err := fits(fix.dir, "another shape", fix.disk); !errors.As(err, &unfit) || len(err.Error()) > 4096 {
			t.Errorf("%v", err)
		}
	})
}
