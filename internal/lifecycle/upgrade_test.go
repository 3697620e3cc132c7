package lifecycle

import (
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hyve-vm/hyve/internal/control"
	"github.com/hyve-vm/hyve/internal/image"
	"github.com/hyve-vm/hyve/internal/machine"
)

const before, after = "sha256:before", "sha256:after"

// upgrading returns a machine at rest whose upgrade has come as far as the start of the new
// engine, which has written to its disk.
func upgrading(t *testing.T) *machine.Machine {
	t.Helper()
	home := machine.Home(t.TempDir())
	spec := machine.Spec{Name: "m", CPUs: 1, Memory: machine.MinMemory, Disk: machine.MinDisk, Image: before, Engine: "stable"}
	m := machine.New(home, spec, netip.MustParseAddr("127.18.0.1"))
	draft, err := home.Draft()
	if err != nil {
		t.Fatal(err)
	}
	defer draft.Discard()
	if err := errors.Join(os.WriteFile(draft.Dir().Disk(), []byte("old data"), 0o600), draft.Commit(m)); err != nil {
		t.Fatal(err)
	}
	if err := change(t.Context(), m, &image.Image{Digest: after}, "newest"); err != nil {
		t.Fatal(err)
	}
	expect(t, m, after, "newest", "old data", true)
	if err := os.WriteFile(m.Dir().Disk(), []byte("new data"), 0o600); err != nil {
		t.Fatal(err)
	}
	return m
}

// expect checks what a machine is on the disk.
func expect(t *testing.T, m *machine.Machine, image, engine, data string, pending bool) {
	t.Helper()
	kept, err := m.Home().Load(m.Name)
	if err != nil {
		t.Fatal(err)
	}
	if kept.Image != image || kept.Engine != engine || kept.ID != m.ID {
		t.Errorf("it has %s, %s; want %s, %s", kept.Image, kept.Engine, image, engine)
	}
	if got, err := os.ReadFile(m.Dir().Disk()); string(got) != data {
		t.Errorf("its disk holds %q, %v; want %q", got, err, data)
	}
	if u, err := m.Dir().Upgrade(); err != nil || (u != nil) != pending {
		t.Errorf("what it was before is %v, %v", u, err)
	}
	if held, err := m.Dir().Held(); err != nil || held {
		t.Errorf("it is locked: %v, %v", held, err)
	}
}

// Wherever an upgrade or its undoing is cut short, the next start goes back to what was.
func TestCutShort(t *testing.T) {
	for name, cut := range map[string]func(m *machine.Machine) error{
		"while the engine starts": func(m *machine.Machine) error { return nil },
		"before the image is another": func(m *machine.Machine) error {
			return errors.Join(m.SetImage(before, "stable"), os.WriteFile(m.Dir().Disk(), []byte("old data"), 0o600))
		},
		"when the disk is back": func(m *machine.Machine) error {
			u, err := m.Dir().Upgrade()
			return errors.Join(err, os.Rename(u.Dir.Disk(), m.Dir().Disk()))
		},
		"when all is back": func(m *machine.Machine) error {
			u, err := m.Dir().Upgrade()
			return errors.Join(err, os.Rename(u.Dir.Disk(), m.Dir().Disk()), m.SetImage(before, "stable"))
		},
	} {
		t.Run(name, func(t *testing.T) {
			m := upgrading(t)
			if err := cut(m); err != nil {
				t.Fatal(err)
			}
			for range 2 { // and again changes nothing
				if err := settle(m); err != nil {
					t.Fatal(err)
				}
				expect(t, m, before, "stable", "old data", false)
			}
			if m.Image != before {
				t.Errorf("what is started has %s", m.Image)
			}
		})
	}
}

// Once the engine has answered nothing goes back; while a machine runs its supervisor
// decides.
func TestUpgradeStays(t *testing.T) {
	m := upgrading(t)
	lock, err := m.Dir().Acquire()
	if err != nil {
		t.Fatal(err)
	}
	if err := settle(m); err != nil {
		t.Error(err)
	}
	lock.Release()
	expect(t, m, after, "newest", "new data", true)
	for range 2 {
		if err := m.Dir().EndUpgrade(); err != nil {
			t.Error(err)
		}
	}
	if err := settle(m); err != nil {
		t.Error(err)
	}
	expect(t, m, after, "newest", "new data", false)
	if left, _ := filepath.Glob(filepath.Join(string(m.Dir()), ".*-*")); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
}

// What cannot be read is not guessed at.
func TestUnreadableUpgrade(t *testing.T) {
	for _, text := range []string{"", "{", "{}", `{"image": 7}`} {
		m := upgrading(t)
		u, err := m.Dir().Upgrade()
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(string(u.Dir), "upgrade.json"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		_, err = Start(t.Context(), m, func(control.Status) {})
		var hinted interface{ Hint() string }
		if err == nil || !errors.As(err, &hinted) || !strings.Contains(hinted.Hint(), string(u.Dir)) {
			t.Errorf("%q: %v", text, err)
		}
		if data, _ := os.ReadFile(m.Dir().Disk()); string(data) != "new data" {
			t.Errorf("%q: the disk holds %q", text, data)
		}
	}
}

// A disk that cannot be copied leaves the machine as it is.
func TestUpgradeThatCannotBegin(t *testing.T) {
	m := upgrading(t)
	if err := settle(m); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(m.Dir().Disk(), m.Dir().Disk()+".away"); err != nil {
		t.Fatal(err)
	}
	if err := change(t.Context(), m, &image.Image{Digest: after}, "newest"); err == nil {
		t.Error("it was changed without its disk")
	}
	if err := os.Rename(m.Dir().Disk()+".away", m.Dir().Disk()); err != nil {
		t.Fatal(err)
	}
	expect(t, m, before, "stable", "old data", false)
}
