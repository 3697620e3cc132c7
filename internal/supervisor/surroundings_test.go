package supervisor

import (
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/hyve-vm/hyve/internal/hostenv"
	"github.com/hyve-vm/hyve/internal/machine"
)

func TestHostPartsAreTheSame(t *testing.T) {
	if !slices.Equal(append(slices.Clone(hostenv.Parts), machine.HostProxies), machine.AllHostParts) {
		t.Errorf("%q can be read, %q asked for", hostenv.Parts, machine.AllHostParts)
	}
}

func TestSurroundingsAreReadOnceAndFollowed(t *testing.T) {
	conf := filepath.Join(t.TempDir(), "resolv.conf")
	write := func(text string) {
		if err := os.WriteFile(conf, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("search a.test\n")
	m := &machine.Machine{}
	s := &surroundings{host: &hostenv.Host{Getenv: func(string) string { return "" }, ResolvConf: conf}, parts: m.HostParts, log: func(note string) { t.Log(note) }}
	if got := s.get().Search; !slices.Equal(got, []string{"a.test"}) {
		t.Errorf("at first %q", got)
	}
	if s.refresh() {
		t.Error("nothing has changed")
	}
	write("search b.test\n")
	if !s.refresh() || !slices.Equal(s.get().Search, []string{"b.test"}) {
		t.Errorf("a change is not seen: %q", s.get().Search)
	}
	m.FromHost = "none"
	s.set(m.HostParts)
	if !s.refresh() || s.get().Search != nil {
		t.Error("the machine has what it is not to have")
	}
}
