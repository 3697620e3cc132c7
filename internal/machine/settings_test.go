package machine

import (
	"encoding/json"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
)

var settingsHost = Host{CPUs: 8, Memory: 32 << 30, Disk: 100 << 30}

// TestHypervisorOfOldFiles: the field is called as it was when there was one hypervisor.
func TestHypervisorOfOldFiles(t *testing.T) {
	var m Machine
	if err := json.Unmarshal([]byte(`{"qemu": "/opt/qemu", "next": {"qemu": "/opt/other"}}`), &m); err != nil {
		t.Fatal(err)
	}
	if m.Hypervisor != "/opt/qemu" || m.Next == nil || m.Next.Hypervisor != "/opt/other" {
		t.Errorf("%+v", m)
	}
}

// settable makes a machine with one CPU and the smallest memory and disk.
func settable(t *testing.T) *Machine {
	t.Helper()
	home := Home(t.TempDir())
	draft, err := home.Draft()
	if err != nil {
		t.Fatal(err)
	}
	defer draft.Discard()
	m := New(home, Spec{Name: "m", CPUs: 1, Memory: MinMemory, Disk: MinDisk, Image: "sha256:0", Labels: []string{"a=1"}},
		netip.MustParseAddr("127.18.0.1"))
	if err := draft.Commit(m); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(m.Dir().Disk(), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(m.Dir().Disk(), MinDisk); err != nil {
		t.Fatal(err)
	}
	return m
}

func p[T any](v T) *T { return &v }

// What a machine has from one boot to the next waits, the rest is there at once, and what
// is taken back does not wait any more.
func TestSettingsWait(t *testing.T) {
	m := settable(t)
	changed, err := m.Set(Settings{CPUs: p(2), Memory: p(int64(1 << 30)), Labels: &[]string{"b=2"}, Disk: p(int64(4 << 30)), Idle: p("1h"),
		EngineEnv: &[]string{"A=b"}}, settingsHost)
	if err != nil || !changed {
		t.Fatal(changed, err)
	}
	m, err = m.Home().Load("m")
	if err != nil {
		t.Fatal(err)
	}
	if m.CPUs != 1 || m.Memory != MinMemory || m.EngineEnv != nil {
		t.Errorf("it has %+v before it was started", m.Boot())
	}
	if !slices.Equal(m.Labels, []string{"b=2"}) || m.Disk != 4<<30 || m.Idle != "1h" {
		t.Errorf("it does not have what it could have: %+v", m.Spec)
	}
	want := []Pending{{"cpus", "1", "2"}, {"memory", "512MiB", "1GiB"}, {"engine-env", "", "A=b"}, {"disk", "2GiB", "4GiB"}}
	if got := m.Pending(); !slices.Equal(got, want) {
		t.Errorf("it waits for %v", got)
	}
	if changed, err := m.Set(Settings{CPUs: p(2)}, settingsHost); changed || err != nil {
		t.Errorf("the same again: %t, %v", changed, err)
	}
	if changed, err := m.Set(Settings{CPUs: p(1), Memory: p(int64(MinMemory)), EngineEnv: &[]string{}}, settingsHost); !changed || err != nil {
		t.Error(changed, err)
	}
	if got := m.Pending(); m.Next != nil || !slices.Equal(got, want[3:]) {
		t.Errorf("it waits for %v after that was taken back", got)
	}
}

// The next start has what waited; a state from before has what it was made with, and what
// was set since waits again.
func TestSettingsComeAndReturn(t *testing.T) {
	m := settable(t)
	then := m.Boot()
	if _, err := m.Set(Settings{CPUs: p(2)}, settingsHost); err != nil {
		t.Fatal(err)
	}
	if err := m.TakeNext(); err != nil || m.CPUs != 2 || m.Next != nil {
		t.Fatalf("%v: %+v", err, m.Spec)
	}
	if _, err := m.Set(Settings{Memory: p(int64(1 << 30))}, settingsHost); err != nil {
		t.Fatal(err)
	}
	if err := m.Return(then); err != nil {
		t.Fatal(err)
	}
	m, err := m.Home().Load("m")
	if err != nil {
		t.Fatal(err)
	}
	if want := m.Wanted(); m.CPUs != 1 || m.Memory != MinMemory || want.CPUs != 2 || want.Memory != 1<<30 {
		t.Errorf("it has %+v and waits for %+v", m.Boot(), want.Boot())
	}
	if err := m.Return(then); err != nil || m.Next == nil {
		t.Errorf("returning twice: %v, %+v", err, m.Next)
	}
}

func TestSettingsRefused(t *testing.T) {
	m := settable(t)
	before, _ := os.ReadFile(m.Dir().Spec())
	for want, settings := range map[string]Settings{
		"0 CPUs are out of range":                    {CPUs: p(0)},
		"9 CPUs are out of range":                    {CPUs: p(9)},
		"memory of 64GiB is out of range":            {Memory: p(int64(64 << 30))},
		"memory of 1MiB is out of range":             {Memory: p(int64(1 << 20))},
		"is smaller than the machine's of 2GiB, and": {Disk: p(int64(MinDisk - 1<<20))},
		"disk of 1PiB is out of range":               {Disk: p(int64(1 << 50)), Labels: &[]string{"kept=no"}},
		`label "x" is not of the form`:               {Labels: &[]string{"x"}},
		`label "a\x1b[31m=b\n" has control`:          {Labels: &[]string{"a\x1b[31m=b\n"}},
		"not an http:// or https:// address":         {RegistryMirrors: &[]string{"mirror.example"}},
		"more than a host and a port":                {RegistryMirrors: &[]string{"https://mirror.example/path"}},
		"idle time":                                  {Idle: p("soon")},
		"is no host name":                            {CertNames: &[]string{"a b"}},
		"without dashes":                             {EngineOptions: &[]string{"--debug"}},
		"of the engine is not of the form":           {EngineEnv: &[]string{"A"}},
	} {
		if changed, err := m.Set(settings, settingsHost); err == nil || changed || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %t, %v", want, changed, err)
		}
	}
	if after, _ := os.ReadFile(m.Dir().Spec()); string(after) != string(before) {
		t.Errorf("the machine is %s", after)
	}
	// A disk that is larger than it was to be does not get smaller either.
	if err := os.Truncate(m.Dir().Disk(), 8<<30); err != nil {
		t.Fatal(err)
	}
	if _, err := m.Set(Settings{Disk: p(int64(4 << 30))}, settingsHost); err == nil || !strings.Contains(err.Error(), "smaller than the machine's of 8GiB") {
		t.Error(err)
	}
	// A host that was a larger one has no say in what stays.
	small := Host{CPUs: 1, Memory: MinMemory, Disk: MinDisk / 2}
	if _, err := m.Set(Settings{Labels: &[]string{"b=2"}}, small); err != nil {
		t.Error(err)
	}
}

// Of several who change a machine at the same moment none undoes what another has done.
func TestSettingsAtTheSameMoment(t *testing.T) {
	m := settable(t)
	var all sync.WaitGroup
	for _, change := range []func(*Machine) error{
		func(m *Machine) error { _, err := m.Set(Settings{CPUs: p(2)}, settingsHost); return err },
		func(m *Machine) error { _, err := m.Set(Settings{Idle: p("1h")}, settingsHost); return err },
		func(m *Machine) error { _, err := m.Set(Settings{Labels: &[]string{"z=1"}}, settingsHost); return err },
		func(m *Machine) error { return m.SetImage("sha256:1", "newest") },
	} {
		mine, err := m.Home().Load("m")
		if err != nil {
			t.Fatal(err)
		}
		all.Go(func() {
			if err := change(mine); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	m, err := m.Home().Load("m")
	if err != nil {
		t.Fatal(err)
	}
	if m.Wanted().CPUs != 2 || m.Idle != "1h" || m.Labels[0] != "z=1" || m.Image != "sha256:1" {
		t.Errorf("something is lost: %+v", m.Spec)
	}
}
