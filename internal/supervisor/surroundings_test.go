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
	s := &surroundings{host: &hostenv.Host{Getenv: func(string) string { return "" }, ResolvConf: conf}, parts: m.HostParts(), log: func(note string) { t.Log(note) }}
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
	s.set(m.HostParts())
	if !s.refresh() || s.get().Search != nil {
		t.Error("the machine has what it is not to have")
	}
}

func TestPartsAreSetWhileTheyAreRead(t *testing.T) {
	asked, answer := make(chan struct{}, 2), make(chan string)
	host := &hostenv.Host{
		Getenv:   func(string) string { return "" },
		Hostname: func() (string, error) { asked <- struct{}{}; return <-answer, nil },
	}
	s := &surroundings{host: host, parts: []string{hostenv.Search, hostenv.Zone}, log: func(note string) { t.Log(note) }}
	got := make(chan []string)
	host.ResolvConf = filepath.Join(t.TempDir(), "resolv.conf")
	if err := os.WriteFile(host.ResolvConf, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	go func() { got <- s.get().Search }()
	<-asked
	s.set([]string{}) // does not wait for the answer
	answer <- "host.old.test"
	if search := <-got; search != nil {
		t.Errorf("it has %q, read before that was set", search)
	}
	s.set([]string{hostenv.Search}) // after a reading
	go func() { got <- s.get().Search }()
	<-asked
	answer <- "host.new.test"
	if search := <-got; !slices.Equal(search, []string{"new.test"}) {
		t.Errorf("it has %q, read before that was set", search)
	}
}
