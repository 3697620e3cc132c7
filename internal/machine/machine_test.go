package machine

import (
	"errors"
	"math"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

func TestCheckName(t *testing.T) {
	for _, name := range []string{"a", "default", "Dev-1", "my.box", "0", strings.Repeat("a", MaxName)} {
		if err := CheckName(name); err != nil {
			t.Errorf("CheckName(%q) = %v", name, err)
		}
	}
	for _, name := range []string{"", ".", "..", "a..b", "-a", "a-", ".a", "a.", "a/b", "../a", "a b", "a\n", "a_b", "ä", "日本", "127.0.0.1",
		strings.Repeat("a", MaxName+1), strings.Repeat("a", 200)} {
		if CheckName(name) == nil {
			t.Errorf("CheckName(%q) accepts", name)
		}
	}
}

func TestFormatSize(t *testing.T) {
	for n, want := range map[int64]string{0: "0B", -5 << 20: "-5MiB", 512 << 20: "512MiB", math.MinInt64: "-8EiB"} {
		if got := FormatSize(n); got != want {
			t.Errorf("%d: %q, want %q", n, got, want)
		}
	}
}

func TestParseSize(t *testing.T) {
	for in, want := range map[string]int64{
		"4GiB": 4 << 30, "4g": 4 << 30, "4 GB": 4 << 30, "512M": 512 << 20, "512": 512 << 20, "1.5GiB": 3 << 29,
		"1k": 0, "2097153": 2097153 << 20, "1PiB": 1 << 50,
	} {
		got, err := ParseSize(in)
		if err != nil || got != want {
			t.Errorf("ParseSize(%q) = %d, %v, want %d", in, got, err, want)
		}
	}
	for _, in := range []string{"", "0", "-1", "-1GiB", "GiB", "x", "4X", "99999999999999999999", "1e999GiB", "NaN"} {
		if got, err := ParseSize(in); err == nil {
			t.Errorf("ParseSize(%q) = %d, want an error", in, got)
		}
	}
}

func FuzzParseSize(f *testing.F) {
	for _, s := range []string{"4GiB", "1k", "-1", "99999999PiB", "1.0000001T", "0x10"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		n, err := ParseSize(s)
		if err == nil && (n < 0 || n%(1<<20) != 0) {
			t.Errorf("ParseSize(%q) = %d", s, n)
		}
	})
}

func TestSpecBounds(t *testing.T) {
	host := Host{CPUs: 2, Memory: 24 << 30, Disk: 250 << 30}
	var good Spec
	good.Name = "a"
	good.Defaults(host)
	if err := good.Check(host); err != nil {
		t.Fatalf("the defaults are out of bounds: %v", err)
	}
	if good.CPUs != 2 || good.Memory != 4<<30 || good.Disk != 64<<30 {
		t.Errorf("defaults are %d CPUs, %s, %s", good.CPUs, FormatSize(good.Memory), FormatSize(good.Disk))
	}
	for name, change := range map[string]func(*Spec){
		"no CPU":             func(s *Spec) { s.CPUs = -1 },
		"too many CPUs":      func(s *Spec) { s.CPUs = 3 },
		"too little memory":  func(s *Spec) { s.Memory = 1 << 20 },
		"too much memory":    func(s *Spec) { s.Memory = 25 << 30 },
		"too small a disk":   func(s *Spec) { s.Disk = 1 << 30 },
		"too big a disk":     func(s *Spec) { s.Disk = 1 << 50 },
		"label":              func(s *Spec) { s.Labels = []string{"x"} },
		"labels that differ": func(s *Spec) { s.Labels = []string{"x=1", "y=1", "x=2"} },
		"empty label":        func(s *Spec) { s.Labels = []string{"=x"} },
		"option":             func(s *Spec) { s.EngineOptions = []string{"--debug"} },
		"two options":        func(s *Spec) { s.EngineOptions = []string{"debug\nhost=tcp://0.0.0.0:2375"} },
		"storage driver":     func(s *Spec) { s.EngineOptions = []string{"storage-driver=foo"} },
		"insecure":           func(s *Spec) { s.InsecureRegistries = []string{"a b"} },
		"mirror":             func(s *Spec) { s.RegistryMirrors = []string{"mirror"} },
	} {
		bad := good
		change(&bad)
		if err := bad.Check(host); err == nil {
			t.Errorf("%s: accepted", name)
		} else if strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: more than one line: %v", name, err)
		}
	}
}

// kept commits a machine and returns it.
func kept(t *testing.T, home Home, name string) *Machine {
	t.Helper()
	draft, err := home.Draft()
	if err != nil {
		t.Fatal(err)
	}
	defer draft.Discard()
	m := New(home, Spec{Name: name, CPUs: 1, Memory: 1 << 30, Disk: 4 << 30, Image: "sha256:x"}, netip.MustParseAddr("127.18.0.1"))
	if err := draft.Commit(m); err != nil {
		t.Fatal(err)
	}
	return m
}

func TestStore(t *testing.T) {
	home := Home(t.TempDir())
	m := kept(t, home, "one")
	got, err := home.Load("one")
	if err != nil {
		t.Fatal(err)
	}
	if got.ID != m.ID || got.EngineID != m.EngineID || got.Address != m.Address {
		t.Errorf("loaded %+v, kept %+v", got, m)
	}
	if _, err := home.Load("two"); !errors.As(err, new(*NotFoundError)) {
		t.Errorf("loading what is not there: %v", err)
	}
	for _, taken := range []string{"one", "ONE"} {
		if err := home.CheckFree(taken); !errors.As(err, new(*ExistsError)) {
			t.Errorf("CheckFree(%q) = %v", taken, err)
		}
	}

	kept(t, home, "two")
	damage := map[string]string{"not JSON": "{", "another's": "", "newer": `{"format":99}`, "empty": ""}
	for what, text := range damage {
		if what == "another's" {
			data, _ := os.ReadFile(home.Dir("one").Spec())
			text = string(data)
		}
		if err := os.WriteFile(home.Dir("two").Spec(), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		entries, err := home.List()
		if err != nil || len(entries) != 2 {
			t.Fatalf("%s: listing %v, %v", what, entries, err)
		}
		if entries[0].Err != nil || !errors.As(entries[1].Err, new(*BrokenError)) {
			t.Errorf("%s: %v, %v", what, entries[0].Err, entries[1].Err)
		}
	}

	if err := home.Remove("two"); err != nil {
		t.Fatal(err)
	}
	if err := home.Remove("one"); err != nil {
		t.Fatal(err)
	}
	if left, _ := filepath.Glob(filepath.Join(home.Machines(), "[^.]*")); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
}

func TestCreationsAtOnce(t *testing.T) {
	home := Home(t.TempDir())
	var group sync.WaitGroup
	errs := make([]error, 8)
	for i := range errs {
		group.Go(func() {
			draft, err := home.Draft()
			if err != nil {
				errs[i] = err
				return
			}
			defer draft.Discard()
			name := []string{"same", "SAME"}[i%2]
			errs[i] = draft.Commit(New(home, Spec{Name: name, CPUs: 1, Memory: MinMemory, Disk: MinDisk, Image: "x"}, netip.MustParseAddr("127.0.0.1")))
		})
	}
	group.Wait()
	won := 0
	for _, err := range errs {
		switch {
		case err == nil:
			won++
		case !errors.As(err, new(*ExistsError)):
			t.Error(err)
		}
	}
	if won != 1 {
		t.Errorf("%d creations of one name succeeded", won)
	}
	left, err := filepath.Glob(filepath.Join(home.Machines(), draftPrefix+"*"))
	if err != nil || len(left) > 0 {
		t.Errorf("drafts left: %v, %v", left, err)
	}
}

func TestLock(t *testing.T) {
	home := Home(t.TempDir())
	dir := kept(t, home, "one").Dir()
	if held, err := dir.Held(); held || err != nil {
		t.Fatalf("Held() = %v, %v", held, err)
	}
	lock, err := dir.Acquire()
	if err != nil {
		t.Fatal(err)
	}
	if held, err := dir.Held(); !held || err != nil {
		t.Errorf("Held() = %v, %v", held, err)
	}
	if _, err := dir.Acquire(); !errors.Is(err, ErrLocked) {
		t.Errorf("locked twice: %v", err)
	}
	lock.Release()
	if held, err := dir.Held(); held || err != nil {
		t.Errorf("Held() after release = %v, %v", held, err)
	}
}

func TestRunDirFitsASocket(t *testing.T) {
	t.Setenv("XDG_CACHE_HOME", t.TempDir())
	for _, home := range []string{t.TempDir(), filepath.Join(t.TempDir(), strings.Repeat("long/", 60))} {
		dir := Home(home).Dir(strings.Repeat("n", MaxName))
		if err := errors.Join(os.MkdirAll(string(dir), 0o700), dir.MakeRunDir(), dir.MakeRunDir()); err != nil {
			t.Fatal(err)
		}
		run := dir.RunDir()
		t.Cleanup(func() { os.RemoveAll(run) })
		for _, socket := range []string{dir.DockerSocket(), dir.ControlSocket(), dir.SSHSocket(), dir.NetworkSocket(), dir.GuestSocket()} {
			if len(socket) > maxSocketPath || filepath.Dir(socket) != run {
				t.Errorf("%s has %d bytes, at most %d", socket, len(socket), maxSocketPath)
			}
		}
	}
}

func TestMakeRunDirRefusesStrangers(t *testing.T) {
	dir := Dir(filepath.Join(t.TempDir(), "m"))
	if err := dir.MakeRunDir(); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir.RunDir(), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := dir.MakeRunDir(); err == nil {
		t.Error("a directory that others may read is accepted")
	}
}

// A long machine's sockets are found by the link in its own directory, and a directory
// that somebody else could use is not. That of an earlier hyve is found if it is private.
// docker's client does not find a socket in whose path there is a percent sign.
func TestOddRunDir(t *testing.T) {
	for name, inside := range map[string]bool{"a#b": true, "a b": true, "a%hb": false, "a%20b": false} {
		dir := Dir(filepath.Join(t.TempDir(), name))
		if err := os.Mkdir(filepath.Dir(string(dir)), 0o700); err != nil && !os.IsExist(err) {
			t.Fatal(err)
		}
		if err := dir.MakeRunDir(); err != nil {
			t.Fatal(err)
		}
		run := dir.RunDir()
		defer os.RemoveAll(run)
		if (run == filepath.Join(string(dir), "run")) != inside || strings.Contains(run, "%") {
			t.Errorf("%s: %s", dir, run)
		}
	}
}

func TestLongRunDir(t *testing.T) {
	t.Setenv("XDG_CACHE_HOME", "/nonexistent/"+strings.Repeat("x", 100))
	dir := Dir(filepath.Join(t.TempDir(), strings.Repeat("n", 150)))
	inside := filepath.Join(string(dir), "run")
	old := dir.oldRunDir()
	if err := os.MkdirAll(old, 0o700); err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(old)
	if got := dir.RunDir(); got != old {
		t.Errorf("a machine of an earlier hyve: %s", got)
	}
	if err := os.Chmod(old, 0o777); err != nil {
		t.Fatal(err)
	}
	if got := dir.RunDir(); got != inside {
		t.Errorf("where anybody may put a socket: %s", got)
	}
	if err := dir.MakeRunDir(); err != nil {
		t.Fatal(err)
	}
	first := dir.RunDir()
	defer os.RemoveAll(first)
	if !strings.HasPrefix(first, "/tmp/hyve-") || first == old {
		t.Errorf("the new one: %s", first)
	}
	if err := os.Chmod(first, 0o777); err != nil {
		t.Fatal(err)
	}
	if got := dir.RunDir(); got == first {
		t.Error("an open one is believed")
	}
	if err := dir.MakeRunDir(); err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir.RunDir())
	if second := dir.RunDir(); second == first || second == inside {
		t.Errorf("after that: %s", second)
	}
}

func TestOpenHomeIsRefused(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "home")
	for mode, ok := range map[os.FileMode]bool{0o700: true, 0o755: true, 0o770: false, 0o777: false} {
		if err := errors.Join(os.MkdirAll(dir, 0o700), os.Chmod(dir, mode)); err != nil {
			t.Fatal(err)
		}
		_, err := DefaultHome(func(name string) string { return map[string]string{"HYVE_HOME": dir}[name] })
		var hinted interface{ Hint() string }
		if (err == nil) != ok || !ok && (!errors.As(err, &hinted) || hinted.Hint() != "close it with: chmod go-w "+dir) {
			t.Errorf("%o: %v", mode, err)
		}
	}
}

func TestDefaultHome(t *testing.T) {
	env := func(vars map[string]string) func(string) string {
		return func(name string) string { return vars[name] }
	}
	if home, err := DefaultHome(env(map[string]string{"HYVE_HOME": "/x y/ä", "HOME": "/h"})); err != nil || home != "/x y/ä" {
		t.Errorf("HYVE_HOME: %q, %v", home, err)
	}
	if _, err := DefaultHome(env(nil)); err == nil {
		t.Error("no HOME: accepted")
	}
}

func TestPickAddress(t *testing.T) {
	first := PickAddress("a", nil)
	if first != PickAddress("a", nil) {
		t.Error("not stable")
	}
	if second := PickAddress("a", []netip.Addr{first}); second == first && first != netip.MustParseAddr("127.0.0.1") {
		t.Error("a taken address was picked")
	}
	if !first.IsLoopback() {
		t.Errorf("%v is no loopback address", first)
	}
}

func TestCheckEngineAndIdentity(t *testing.T) {
	host := Host{CPUs: 2, Memory: 4 << 30, Disk: 64 << 30}
	for name, c := range map[string]struct {
		change func(*Spec)
		ok     bool
	}{
		"a variable":              {func(s *Spec) { s.EngineEnv = []string{"HTTP_PROXY=http://p:3128", "EMPTY="} }, true},
		"a variable without name": {func(s *Spec) { s.EngineEnv = []string{"=x"} }, false},
		"no variable":             {func(s *Spec) { s.EngineEnv = []string{"HTTP_PROXY"} }, false},
		"a variable of two lines": {func(s *Spec) { s.EngineEnv = []string{"A=b\nC=d"} }, false},
		"names":                   {func(s *Spec) { s.CertNames = []string{"docker.corp.test", "*.corp.test", "10.0.0.1", "fe80::1"} }, true},
		"no name":                 {func(s *Spec) { s.CertNames = []string{"a b"} }, false},
		"an empty name":           {func(s *Spec) { s.CertNames = []string{""} }, false},
		"a key":                   {func(s *Spec) { s.AuthorizedKeys = []string{"ssh-rsa AAAAB3NzaC1yc2E= me@there"} }, true},
		"a key with options":      {func(s *Spec) { s.AuthorizedKeys = []string{`command="x" ssh-rsa AAAAB3NzaC1yc2E=`} }, false},
		"no CA": {func(s *Spec) {
			s.EngineCAs = []string{"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"}
		}, false},
		"two keys in one": {func(s *Spec) { s.AuthorizedKeys = []string{"ssh-rsa AAAA x\nssh-rsa BBBB y"} }, false},
	} {
		spec := Spec{Name: "m"}
		spec.Defaults(host)
		c.change(&spec)
		if err := spec.Check(host); (err == nil) != c.ok {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// Whatever a machine's file says, it is a machine within its bounds or a broken one.
func FuzzLoad(f *testing.F) {
	home := Home(f.TempDir())
	if err := os.MkdirAll(string(home.Dir("m")), 0o700); err != nil {
		f.Fatal(err)
	}
	f.Add([]byte(`{"format":1,"name":"m","cpus":1,"memory":1073741824,"disk":1073741824,"image":"sha256:0","id":"0123456789abcdef0123456789abcdef","address":"127.18.0.1"}`))
	f.Add([]byte(`{"format":1,"name":"../m"}`))
	f.Add([]byte(`{"address":"fe80::1%` + strings.Repeat("x", 4096) + `"}`))
	f.Add([]byte(strings.Repeat("{\"a\":", 20_000)))
	f.Add([]byte(strings.Repeat(" ", 2<<20)))
	f.Fuzz(func(t *testing.T, data []byte) {
		if err := os.WriteFile(home.Dir("m").Spec(), data, 0o600); err != nil {
			t.Fatal(err)
		}
		m, err := home.Load("m")
		var broken *BrokenError
		switch {
		case err == nil && (m.Name != "m" || m.CPUs < 1 || m.Memory < MinMemory || m.Disk < MinDisk || !m.Address.IsLoopback() || m.Address.Zone() != ""):
			t.Errorf("%+v", m)
		case err != nil && !errors.As(err, &broken):
			t.Error(err)
		}
	})
}
