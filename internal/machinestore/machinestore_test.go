package machinestore

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func fixture(t testing.TB) []byte {
	t.Helper()
	data, err := os.ReadFile("testdata/xhyve.json")
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// put makes a store with one machine.
func put(t *testing.T, name, config string) Store {
	t.Helper()
	s := Store(t.TempDir())
	if err := os.MkdirAll(s.Dir(name), 0o700); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(s.Dir(name), "config.json"), config)
	return s
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestDefault(t *testing.T) {
	env := map[string]string{"HOME": "/home/me"}
	if s, err := Default(func(name string) string { return env[name] }); s != "/home/me/.docker/machine" || err != nil {
		t.Errorf("got %q, %v", s, err)
	}
	env["MACHINE_STORAGE_PATH"] = "/else/where"
	if s, err := Default(func(name string) string { return env[name] }); s != "/else/where" || err != nil {
		t.Errorf("got %q, %v", s, err)
	}
	if _, err := Default(func(string) string { return "" }); err == nil {
		t.Error("no error without HOME")
	}
}

func TestNames(t *testing.T) {
	s := Store(t.TempDir())
	if names, err := s.Names(); len(names) > 0 || err != nil {
		t.Errorf("an empty store: %q, %v", names, err)
	}
	for _, dir := range []string{"b", "a", ".hidden", "odd\nname"} {
		if err := os.MkdirAll(s.Dir(dir), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	write(t, s.Dir("file"), "")
	if names, err := s.Names(); !slices.Equal(names, []string{"a", "b", "odd\nname"}) || err != nil {
		t.Errorf("got %q, %v", names, err)
	}
}

func TestLoad(t *testing.T) {
	s := put(t, "dev", string(fixture(t)))
	h, err := s.Load("dev")
	if err != nil {
		t.Fatal(err)
	}
	engine := h.HostOptions.EngineOptions
	if h.ConfigVersion != 3 || h.Name != "dev" || h.DriverName != "xhyve" || !engine.TLSVerify ||
		!slices.Equal(engine.ArbitraryFlags, []string{"bip=172.20.0.1/16"}) || !slices.Equal(engine.Labels, []string{"team=blue"}) ||
		!slices.Equal(engine.RegistryMirror, []string{"http://mirror.local:5000"}) || !slices.Equal(engine.InsecureRegistry, []string{"registry.local:5000"}) ||
		!slices.Equal(engine.Env, []string{"HTTP_PROXY=http://proxy:3128"}) ||
		h.HostOptions.SwarmOptions.Image != "swarm:latest" || !slices.Equal(h.HostOptions.AuthOptions.ServerCertSANs, []string{"dev.local"}) {
		t.Errorf("got %+v", h)
	}
	// Nothing is lost, nothing is added, and the order is docker-machine's.
	again, err := json.MarshalIndent(h, "", "    ")
	if err != nil {
		t.Fatal(err)
	}
	var want, got bytes.Buffer
	json.Compact(&want, fixture(t))
	json.Compact(&got, again)
	if want.String() != got.String() {
		t.Errorf("written again it is\n%s, was\n%s", &got, &want)
	}
	vm, err := s.VM(h)
	if want := (&VM{CPUs: 2, Memory: 2 << 30, Disk: 20000 << 20, Shares: []string{"/Users/me/src"}}); err != nil || !reflect.DeepEqual(vm, want) {
		t.Errorf("the VM is %+v, %v, want %+v", vm, err, want)
	}
}

// A copy of a machine's directory goes by the directory's name.
func TestNameIsTheDirectorys(t *testing.T) {
	h, err := put(t, "copy", string(fixture(t))).Load("copy")
	if err != nil || h.Name != "copy" {
		t.Errorf("got %+v, %v", h, err)
	}
}

func TestLoadRefuses(t *testing.T) {
	for name, test := range map[string]struct{ config, want string }{
		"empty":           {"", "not a JSON object"},
		"half":            {string(fixture(t)[:900]), "unexpected end of JSON input"},
		"null":            {"null", "not a JSON object"},
		"a list":          {"[]", "not a JSON object"},
		"trailing":        {string(fixture(t)) + "{}", "after top-level value"},
		"from the future": {`{"ConfigVersion": 4, "Driver": [], "HostOptions": 7}`, ErrFuture.Error()},
		"no driver":       {`{"ConfigVersion": 3, "Driver": {}}`, "names no driver"},
		"an odd driver":   {`{"ConfigVersion": 3, "Driver": {}, "DriverName": "a\u001b[2Jb"}`, `a\x1b[2Jb`},
		"nothing of it":   {`{"ConfigVersion": 3, "DriverName": "xhyve"}`, "says nothing"},
		"wrong types":     {`{"ConfigVersion": 3, "DriverName": "xhyve", "Driver": {}, "HostOptions": {"EngineOptions": {"Labels": "x"}}}`, "damaged"},
		"large":           {`{"Name": "` + strings.Repeat("x", maxConfig) + `"}`, "larger than"},
	} {
		_, err := put(t, "dev", test.config).Load("dev")
		if err == nil || !strings.Contains(err.Error(), test.want) || strings.ContainsAny(err.Error(), "\n\x1b") {
			t.Errorf("%s: %v, want %s", name, err, test.want)
		}
	}
	s := put(t, "dev", "{}")
	for _, name := range []string{"", ".", "..", "../dev", "a/b", "-a", "a\nb"} {
		if _, err := s.Load(name); err == nil || errors.Is(err, ErrNotFound) {
			t.Errorf("%q: %v", name, err)
		}
	}
	if _, err := s.Load("other"); !errors.Is(err, ErrNotFound) {
		t.Errorf("a machine that is not there: %v", err)
	}
	pipe := filepath.Join(s.Dir("dev"), "config.json")
	os.Remove(pipe)
	if _, err := s.Load("dev"); err == nil || !strings.Contains(err.Error(), "missing") {
		t.Errorf("without a file: %v", err)
	}
	if err := unix.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Load("dev"); err == nil || !strings.Contains(err.Error(), "not a file") {
		t.Errorf("a pipe: %v", err)
	}
}

func TestVM(t *testing.T) {
	for config, want := range map[string]*VM{
		`{"CPU": 1, "Memory": 1024, "DiskSize": 20000}`:                    {CPUs: 1, Memory: 1 << 30, Disk: 20000 << 20},
		`{"CPU": -1, "Memory": 1, "DiskSize": 1, "Virtio9p": ["/a"]}`:      {CPUs: 0, Memory: 1 << 20, Disk: 1 << 20, Shares: []string{"/a"}},
		`{"CPU": 1, "Memory": 1024}`:                                       nil,
		`{"CPU": 1, "Memory": -1024, "DiskSize": 20000}`:                   nil,
		`{"CPU": 1, "Memory": 9223372036854775807, "DiskSize": 20000}`:     nil,
		`{"CPU": 1, "Memory": 1e400, "DiskSize": 20000}`:                   nil,
		`{"CPU": "1", "Memory": 1024, "DiskSize": 20000}`:                  nil,
		`{"CPU": 1, "Memory": 1024, "DiskSize": 20000, "NFSShares": true}`: nil,
	} {
		vm, err := parseVM([]byte(config))
		if !reflect.DeepEqual(vm, want) || (err == nil) != (want != nil) {
			t.Errorf("%s: got %+v, %v, want %+v", config, vm, err, want)
		}
	}
	var foreign *DriverError
	if _, err := Store("").VM(&Host{DriverName: "amazonec2"}); !errors.As(err, &foreign) {
		t.Errorf("a cloud's: %v", err)
	}
}

// A machine runs if the process of its PID file lives.
func TestRunning(t *testing.T) {
	s := put(t, "dev", string(fixture(t)))
	h, err := s.Load("dev")
	if err != nil {
		t.Fatal(err)
	}
	for text, want := range map[string]int{"1": 1, "1\n": 1, "": 0, "0": 0, "-1": 0, "x": 0, "999999999": 0, strings.Repeat("1", 99): 0} {
		write(t, filepath.Join(s.Dir("dev"), "dev.pid"), text)
		if vm, err := s.VM(h); err != nil || vm.Pid != want {
			t.Errorf("%q: %+v, %v, want process %d", text, vm, err, want)
		}
	}
}

func TestDisk(t *testing.T) {
	s := put(t, "dev", string(fixture(t)))
	h, err := s.Load("dev")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Disk(h); err == nil {
		t.Error("a disk where there is none")
	}
	check := func(format, file string) {
		t.Helper()
		d, err := s.Disk(h)
		if err != nil || d.Format != format || d.Path != filepath.Join(s.Dir("dev"), file) {
			t.Errorf("got %+v, %v, want %s", d, err, file)
		}
	}
	write(t, filepath.Join(s.Dir("dev"), "disk.vdi"), "x")
	check("vdi", "disk.vdi")
	if err := os.Mkdir(filepath.Join(s.Dir("dev"), "root-volume.sparsebundle"), 0o700); err != nil {
		t.Fatal(err)
	}
	check("sparsebundle", "root-volume.sparsebundle")
	write(t, filepath.Join(s.Dir("dev"), "dev.rawdisk"), "x")
	check("raw", "dev.rawdisk")
}

func FuzzParse(f *testing.F) {
	f.Add(fixture(f))
	f.Add([]byte(`{"ConfigVersion": 4}`))
	f.Add([]byte(`{"DriverName": "virtualbox", "Driver": {"CPU": 1, "Memory": 1, "DiskSize": 1}}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		h, err := parse(data)
		if err != nil {
			return
		}
		if h.ConfigVersion > Version || !namePattern.MatchString(h.DriverName) {
			t.Errorf("accepted: %+v", h)
		}
		if _, err := json.Marshal(h); err != nil {
			t.Errorf("it cannot be written again: %v", err)
		}
		if vm, err := parseVM(h.Driver); err == nil && (vm.CPUs < 0 || vm.Memory <= 0 || vm.Disk <= 0) {
			t.Errorf("accepted: %+v", vm)
		}
	})
}

// VirtualBox is asked whether a machine runs.
func TestRunningInVirtualBox(t *testing.T) {
	s := put(t, "box", strings.Replace(string(fixture(t)), `"DriverName": "xhyve"`, `"DriverName": "virtualbox"`, 1))
	h, err := s.Load("box")
	if err != nil {
		t.Fatal(err)
	}
	vm, err := s.VM(h)
	if err != nil {
		t.Fatal(err)
	}
	bin := t.TempDir()
	t.Setenv("PATH", bin+":/usr/bin:/bin")
	for script, want := range map[string]string{
		`printf 'name="box"\nVMState="running"\nVMStateChangeTime="x"\n'`: "VirtualBox says it is running",
		`printf 'VMState="paused"\n'`:                                     "VirtualBox says it is paused",
		`printf 'VMState="poweroff"\n'`:                                   "",
		`printf 'VMState="saved"\n'`:                                      "",
		`exit 1`:                                                          "an error",
	} {
		program := filepath.Join(bin, "VBoxManage")
		write(t, program, "#!/bin/sh\n[ \"$*\" = 'showvminfo box --machinereadable' ] || exit 2\n"+script+"\n")
		if err := os.Chmod(program, 0o700); err != nil {
			t.Fatal(err)
		}
		got, err := s.Running(t.Context(), h, vm)
		if err != nil {
			got = "an error"
		}
		if got != want {
			t.Errorf("%s: got %q, %v, want %q", script, got, err, want)
		}
	}
	t.Setenv("PATH", t.TempDir())
	if got, err := s.Running(t.Context(), h, vm); got != "" || err != nil {
		t.Errorf("without VirtualBox: %q, %v", got, err)
	}
}
