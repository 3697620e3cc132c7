package dockermachine

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hyve-vm/hyve/internal/control"
	"github.com/hyve-vm/hyve/internal/lifecycle"
	"github.com/hyve-vm/hyve/internal/machine"
	"github.com/hyve-vm/hyve/internal/machinestore"
	"github.com/hyve-vm/hyve/internal/sshclient"
)

// variables is an environment.
func variables(pairs ...string) func(string) string {
	return func(name string) string {
		for i := 0; i < len(pairs); i += 2 {
			if pairs[i] == name {
				return pairs[i+1]
			}
		}
		return ""
	}
}

// requestOf reads the flags of create.
func requestOf(driver string, getenv func(string) string, args ...string) (*request, error) {
	c := &client{getenv: getenv}
	r, flags, settle := c.createFlags(driver)
	if _, err := parse(flags, args, true); err != nil {
		return nil, err
	}
	return r, settle()
}

func TestCreateFlags(t *testing.T) {
	for _, test := range []struct {
		driver, args string
		env          []string
		want         machine.Spec
		warnings     []string // what each is about
	}{
		{"xhyve", "--xhyve-cpu-count 2 --xhyve-memory-size=2048 -xhyve-disk-size 20000", nil,
			machine.Spec{CPUs: 2, Memory: 2048 << 20, Disk: 20000 << 20}, nil},
		{"xhyve", "--xhyve-cpu-count 0", nil, machine.Spec{CPUs: runtime.NumCPU()}, nil},
		{"virtualbox", "--virtualbox-cpu-count -1 --virtualbox-memory 1024 --virtualbox-disk-size 30000", nil,
			machine.Spec{CPUs: runtime.NumCPU(), Memory: 1024 << 20, Disk: 30000 << 20}, nil},
		{"xhyve", "", []string{"XHYVE_CPU_COUNT", "3", "XHYVE_DISK_SIZE", "4096", "XHYVE_QCOW2", "true", "XHYVE_RAW_DISK", "false"},
			machine.Spec{CPUs: 3, Disk: 4096 << 20}, []string{"xhyve-qcow2"}},
		{"xhyve", "--xhyve-cpu-count 1", []string{"XHYVE_CPU_COUNT", "3", "VIRTUALBOX_MEMORY_SIZE", "1"}, machine.Spec{CPUs: 1}, nil},
		{"hyve", "--hyve-cpu-count 2 --xhyve-memory-size 1024", []string{"XHYVE_UUID", "x", "HYVE_QCOW2", "1"},
			machine.Spec{CPUs: 2, Memory: 1024 << 20}, []string{"hyve-qcow2", "xhyve-uuid"}},
		{"xhyve", "--xhyve-boot2docker-url sha256:00", nil, machine.Spec{Image: "sha256:00"}, nil},
		{"xhyve", "--xhyve-boot2docker-url http://example.org/b2d.iso --xhyve-boot-cmd x --xhyve-boot-kernel x --xhyve-boot-initrd x" +
			" --xhyve-uuid x --xhyve-rawdisk --xhyve-virtio-9p /a --xhyve-virtio-9p /b --xhyve-virtio-9p-root /r" +
			" --xhyve-experimental-nfs-share /a --xhyve-experimental-nfs-share-root /r", nil, machine.Spec{},
			[]string{"xhyve-boot2docker-url", "xhyve-boot-cmd", "xhyve-boot-kernel", "xhyve-boot-initrd", "xhyve-uuid", "xhyve-rawdisk",
				"xhyve-virtio-9p", "xhyve-virtio-9p-root", "xhyve-experimental-nfs-share", "xhyve-experimental-nfs-share-root"}},
		{"virtualbox", "--virtualbox-no-share --virtualbox-no-vtx-check --virtualbox-hostonly-cidr 192.168.99.1/24", nil, machine.Spec{},
			[]string{"virtualbox-hostonly-cidr", "virtualbox-no-vtx-check"}},
		{"xhyve", "--engine-opt dns=1.1.1.1 --engine-opt debug --engine-env A=b --engine-insecure-registry r:5000 --engine-registry-mirror http://m" +
			" --engine-label x=y --tls-san s", []string{"ENGINE_REGISTRY_MIRROR", "http://not"},
			machine.Spec{EngineOptions: []string{"dns=1.1.1.1", "debug"}, EngineEnv: []string{"A=b"}, InsecureRegistries: []string{"r:5000"},
				RegistryMirrors: []string{"http://m"}, Labels: []string{"x=y"}, CertNames: []string{"s"}}, nil},
		{"xhyve", "--engine-opt host=tcp://0.0.0.0:2375 --engine-opt tls=false --engine-opt tlsverify --engine-opt debug --engine-opt group=x", nil,
			machine.Spec{EngineOptions: []string{"debug"}},
			[]string{"engine-opt host", "engine-opt tls", "engine-opt tlsverify", "engine-opt group"}},
		{"xhyve", "", []string{"ENGINE_REGISTRY_MIRROR", "http://a,http://b"}, machine.Spec{RegistryMirrors: []string{"http://a", "http://b"}}, nil},
		{"xhyve", "--engine-storage-driver overlay2 --engine-install-url https://get.docker.com", nil, machine.Spec{}, nil},
		{"xhyve", "--engine-storage-driver vfs", nil, machine.Spec{EngineOptions: []string{"storage-driver=vfs"}}, nil},
		{"xhyve", "--engine-storage-driver aufs", []string{"MACHINE_DOCKER_INSTALL_URL", "http://x"}, machine.Spec{},
			[]string{"engine-storage-driver", "engine-install-url"}},
		{"xhyve", "--swarm --swarm-master --swarm-discovery token://x --swarm-opt a --swarm-opt b --swarm-host tcp://0.0.0.0:3376",
			[]string{"MACHINE_SWARM_IMAGE", "swarm:1.0"}, machine.Spec{},
			[]string{"swarm", "swarm-image", "swarm-master", "swarm-discovery", "swarm-opt", "swarm-host"}},
	} {
		r, err := requestOf(test.driver, variables(test.env...), strings.Fields(test.args)...)
		if err != nil {
			t.Errorf("%s: %v", test.args, err)
			continue
		}
		test.want.Driver = test.driver
		test.want.Labels = append(test.want.Labels, "provider="+test.driver)
		if got, want := fmt.Sprintf("%+v", r.spec), fmt.Sprintf("%+v", test.want); got != want {
			t.Errorf("%s:\n%s, want\n%s", test.args, got, want)
		}
		var about []string
		for _, w := range r.warnings {
			flag, why, ok := strings.Cut(strings.TrimPrefix(w, "--"), " is not used: ")
			if !ok || why == "" {
				t.Errorf("%s: the warning %q", test.args, w)
			}
			about = append(about, flag)
		}
		slices.Sort(about)
		slices.Sort(test.warnings)
		if !slices.Equal(about, test.warnings) {
			t.Errorf("%s: warnings about %q, want %q", test.args, about, test.warnings)
		}
	}
	for _, bad := range [][]string{{"--xhyve-cpu-count", "x"}, {"--xhyve-disk-size", "99999999999999"}, {"--virtualbox-memory", "1"}, {"--url", "x"}} {
		if _, err := requestOf("xhyve", variables(), bad...); err == nil {
			t.Errorf("%q is accepted", bad)
		}
	}
}

// Flags of another CA are no use for hyve's machines.
func TestForeignCAIsRefused(t *testing.T) {
	c := &client{getenv: variables(), globals: globals{caCert: "x", clientKey: "y"}}
	r, _, settle := c.createFlags("xhyve")
	if err := settle(); err != nil || len(r.warnings) != 2 {
		t.Errorf("%q, %v", r.warnings, err)
	}
}

func TestParse(t *testing.T) {
	for _, test := range []struct {
		args, rest string
		a, b       string
		on, errors bool
	}{
		{"x -alpha 1 y", "x y", "1", "", false, false},
		{"--alpha=1 --b 2 x", "x", "1", "2", false, false},
		{"-b=2 x --on", "x", "", "2", true, false},
		{"--alpha -b x", "x", "-b", "", false, false},
		{"-a -- x", "x", "--", "", false, false},
		{"-on=false x -- -alpha y", "x -alpha y", "", "", false, false},
		{"-", "-", "", "", false, false},
		{"x --alpha", "", "", "", false, true},
		{"-c", "", "", "", false, true},
		{"--on=perhaps", "", "", "", false, true},
	} {
		f := newFlags()
		a, b, on := f.StringP("alpha", "a", "", ""), f.StringP("beta", "b", "", ""), f.Bool("on", false, "")
		rest, err := parse(f, strings.Fields(test.args), true)
		if (err != nil) != test.errors {
			t.Errorf("%s: %v", test.args, err)
		}
		if err == nil && (strings.Join(rest, " ") != test.rest || *a != test.a || *b != test.b || *on != test.on) {
			t.Errorf("%s: rest %q, alpha %q, beta %q, on %v", test.args, rest, *a, *b, *on)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add("-alpha\x00x\x00--b=1\x00--\x00y")
	f.Fuzz(func(t *testing.T, line string) {
		flags := newFlags()
		flags.StringP("alpha", "a", "", "")
		flags.StringArrayP("beta", "b", nil, "")
		flags.Bool("on", false, "")
		if _, err := parse(flags, strings.Split(line, "\x00"), true); err != nil && strings.ContainsFunc(err.Error(), func(r rune) bool { return r < ' ' }) {
			t.Errorf("%q: %q", line, err)
		}
	})
}

func TestNaturalOrder(t *testing.T) {
	want := []string{"a", "a1", "A2", "a10", "a10b", "b", "m2", "M10", "m10x", "z"}
	got := slices.Clone(want)
	slices.Reverse(got)
	slices.SortFunc(got, compareNatural)
	if !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
}

func TestStates(t *testing.T) {
	for s, want := range map[control.State]string{
		control.Running: "Running", control.Starting: "Starting", control.Stopping: "Stopping", control.Stopped: "Stopped",
		control.Suspended: "Saved", control.Unresponsive: "Error", control.Broken: "Error",
	} {
		if got := stateOf(s); got != want {
			t.Errorf("%s is %s, want %s", s, got, want)
		}
	}
}

func TestPlaces(t *testing.T) {
	for _, test := range []struct {
		storage    string
		byFlag     bool
		env        []string
		home, base string
	}{
		{"", false, []string{"HOME", "/u", "HYVE_HOME", "/h"}, "/h", "/u/.docker/machine"},
		{"/p", false, []string{"HOME", "/u"}, "/p/hyve", "/p"},
		{"/p", false, []string{"HOME", "/u", "HYVE_HOME", "/h"}, "/h", "/p"},
		{"/p", true, []string{"HOME", "/u", "HYVE_HOME", "/h"}, "/p/hyve", "/p"},
	} {
		home, store, err := places(test.storage, test.byFlag, variables(test.env...))
		if err != nil || string(home) != test.home || string(store) != test.base {
			t.Errorf("%+v: %s, %s, %v", test, home, string(store), err)
		}
	}
}

// Whatever a config.json says, it is no harm to a terminal, nor leads elsewhere.
func FuzzStored(f *testing.F) {
	f.Add([]byte(`{"ConfigVersion":3,"Driver":{"IPAddress":"1.2.3.4","MachineName":"a"},"DriverName":"xhyve","HostOptions":{},"Name":"a"}`))
	f.Add([]byte(`{"ConfigVersion":3,"Driver":{"IPAddress":7},"DriverName":"\u001b[2J","Name":"` + "\u009b" + `"}`))
	f.Add([]byte(`{"Driver":{"IPAddress":"x@y/../z?"},"DriverName":"none"}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		d := new(machinestore.Host)
		if json.Unmarshal(data, d) != nil || len(d.Driver) == 0 {
			return
		}
		h := &host{name: "x", kind: foreign, stored: d}
		if url := h.storedURL(); url != "" && checkURL(url) != nil {
			t.Errorf("the URL %q", url)
		}
		text, err := textOf(d)
		if err != nil {
			t.Fatal(err)
		}
		printed, err := formatted(d, "{{.DriverName}} {{json .Driver}}")
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range []string{text, printed, printable(h.driver())} {
			if i := strings.IndexFunc(s, func(r rune) bool { return r < ' ' && r != '\n' && r != '\t' || r >= 0x7f && r < 0xa0 }); i >= 0 {
				t.Errorf("a control character in %q", s)
			}
		}
	})
}

func TestCheckURL(t *testing.T) {
	for _, good := range []string{"tcp://127.0.0.1:2376", "tcp://host:1", "tcp://[::1]:2376", "tcp://h:2376/", "tcp://a_b.example.:1", "tcp://host:65535"} {
		if err := checkURL(good); err != nil {
			t.Errorf("%s: %v", good, err)
		}
	}
	for _, bad := range []string{"", "tcp://", "tcp://host", "tcp://host:x", "tcp://host:99999", "tcp://:2376", "tcp://me@host:1", "unix:///x", "ssh://h:1", "tcp://h:1/p", "\x00",
		"tcp://h:1?", "tcp://h:1?a=b", "tcp://h:1#", "tcp://h:1#f", "tcp://h:1/?a", "tcp://h:1//", "tcp://h:0", "tcp://h:+1", "tcp://h:00",
		`tcp://a"b:1`, "tcp://a'b:1", "tcp://a b:1", "tcp://a%22b:1", "tcp://a$(id):1", "tcp://a`id`:1", "tcp://a;b:1", "tcp://-h:1", "tcp://h\n:1",
		"tcp://::1:1", "tcp://[h]:1", "tcp://[127.0.0.1]:1", `tcp://[fe80::1%25a"b]:1`, "TCP://h:1", "tcp://" + strings.Repeat("a", 254) + ":1"} {
		if checkURL(bad) == nil {
			t.Errorf("%q is accepted", bad)
		}
	}
}

// Without a place for docker's contexts there is a line, and none is made anywhere.
func TestNoPlaceForContexts(t *testing.T) {
	var said bytes.Buffer
	c := &client{getenv: variables("HYVE_HOME", "/h"), log: &said}
	t.Chdir(t.TempDir())
	contexts := c.contexts()
	if err := errors.Join(contexts.Put("m", "/s", ""), contexts.Remove("m")); err != nil {
		t.Error(err)
	}
	if left, err := os.ReadDir("."); len(left) > 0 || err != nil {
		t.Errorf("%v was made, %v", left, err)
	}
	if text := said.String(); strings.Count(text, "\n") != 1 || !strings.Contains(text, "HOME is not set") {
		t.Errorf("said %q", text)
	}
	said.Reset()
	c.getenv = variables("HOME", "/u")
	if contexts := c.contexts(); contexts.Dir == "" || said.Len() > 0 {
		t.Errorf("%+v, said %q", contexts, &said)
	}
}

// A machine that did not come up was removed; the way out is one that docker-machine has.
func TestHintOfACreationThatFailed(t *testing.T) {
	c := &client{}
	failed := &lifecycle.StartError{Name: "m", Failure: control.Failure{Cause: "x"}, Removed: true}
	for _, test := range []struct {
		err  error
		want string
	}{
		{c.inItsWords(fmt.Errorf("creating: %w", failed)), "it was removed; where the engine refuses a setting, create it again with another one (docker-machine create --help lists them)"},
		{failed, "it was removed; to see more, make it with --no-start, then: hyve start m, hyve logs m"},
		{c.inItsWords(&lifecycle.StartError{Name: "m", Failure: control.Failure{Hint: "do it"}, Removed: true}), "do it"},
		{c.inItsWords(&lifecycle.StartError{Name: "m"}), "hyve logs m shows what the machine said"},
	} {
		var said bytes.Buffer
		c.stderr = &said
		c.complain(test.err)
		if lines := strings.Split(said.String(), "\n"); len(lines) != 3 || lines[1] != test.want {
			t.Errorf("%v: %q, want %q", test.err, lines, test.want)
		}
	}
}

func TestSystemClients(t *testing.T) {
	access := sshclient.Access{User: "docker", Host: "127.18.0.1", Port: "2222", Key: "/h/id", Alias: "m1", KnownHosts: `/h, o"/known`}
	args := sshArgs(access)
	// What docker-machine has passed, in its order.
	if got := strings.Join(args[:3], " "); got != "ssh -F /dev/null" {
		t.Errorf("ssh begins with %s", got)
	}
	if got := strings.Join(args[len(args)-7:], " "); got != "docker@127.18.0.1 -o IdentitiesOnly=yes -i /h/id -p 2222" {
		t.Errorf("ssh ends with %s", got)
	}
	if !slices.Contains(args, "StrictHostKeyChecking=yes") || !slices.Contains(args, "HostKeyAlias=m1") {
		t.Errorf("the host key is not checked: %q", args)
	}
	args = mountArgs(access, "/data", "-there")
	if got := strings.Join(args[len(args)-2:], " "); got != "docker@127.18.0.1:/data ./-there" {
		t.Errorf("sshfs ends with %s", got)
	}
	if !slices.Contains(args, `UserKnownHostsFile="/h\, o\\"/known"`) || slices.Contains(args, "User=docker") {
		t.Errorf("sshfs is told %q", args)
	}
}

func TestMountLocation(t *testing.T) {
	for arg, want := range map[string]sshclient.Location{
		"/data":       {Machine: "default", Path: "/data"},
		"m1:/data":    {Machine: "m1", Path: "/data"},
		"root@m1:x:y": {User: "root", Machine: "m1", Path: "x:y"},
	} {
		if got, err := mountLocation(arg); err != nil || got != want {
			t.Errorf("%s: %+v, %v", arg, got, err)
		}
	}
	for _, bad := range []string{"localhost:/x", ":x", "-o@m1:x"} {
		if got, err := mountLocation(bad); err == nil {
			t.Errorf("%s: %+v", bad, got)
		}
	}
}

// byByte passes on what it gets in the smallest of pieces, and lets others go between.
type byByte struct{ b bytes.Buffer }

func (w *byByte) Write(p []byte) (int, error) {
	for _, c := range p {
		w.b.WriteByte(c)
		runtime.Gosched()
	}
	return len(p), nil
}

// adoptedHosts returns a client that has engines of these URLs, named m0, m1 and so on.
func adoptedHosts(t *testing.T, out io.Writer, urls ...string) *client {
	t.Helper()
	c := &client{args: []string{Name}, getenv: variables("SHELL", "/bin/sh"), stdout: out, stderr: out, log: out, home: machine.Home(t.TempDir())}
	for i, url := range urls {
		if err := c.obey(t.Context(), c.word("create"), []string{"-d", "none", "--url", url, fmt.Sprintf("m%d", i)}); err != nil {
			t.Fatal(err)
		}
	}
	return c
}

// What several machines have to say at once comes in whole lines.
func TestSeveralAtOnce(t *testing.T) {
	var got byByte
	urls := slices.Repeat([]string{"tcp://127.0.0.1:9"}, 20)
	c := adoptedHosts(t, io.Discard, urls...)
	c.log = &lockedWriter{w: &got}
	names := make([]string, len(urls))
	for i := range names {
		names[i] = fmt.Sprintf("m%d", i)
	}
	if err := c.each(names, func(h *host) error { c.inform("this is %q", h.name); return nil }); err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSuffix(got.b.String(), "\n"), "\n")
	slices.Sort(lines)
	if lines = slices.Compact(lines); len(lines) != len(urls) {
		t.Errorf("%d different lines", len(lines))
	}
	for _, line := range lines {
		var name string
		if n, err := fmt.Sscanf(line, "this is %q", &name); n != 1 || err != nil || line != fmt.Sprintf("this is %q", name) {
			t.Errorf("not a whole line: %q", line)
		}
	}
}

// A machine that does not answer is waited for as long as ls is told to, and does not hold
// up the others.
func TestListTimeout(t *testing.T) {
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	var out bytes.Buffer
	c := adoptedHosts(t, io.Discard, "tcp://"+silent.Addr().String(), "tcp://127.0.0.1:9")
	c.stdout = &out
	began := time.Now()
	if err := c.obey(t.Context(), c.word("ls"), []string{"-t", "1", "-f", "{{.Name}} {{.State}}"}); err != nil {
		t.Fatal(err)
	}
	if want := "m0 Timeout\nm1 Running\n"; out.String() != want {
		t.Errorf("%q, want %q", out.String(), want)
	}
	if took := time.Since(began); took < time.Second || took > 5*time.Second {
		t.Errorf("it took %v", took)
	}
}
