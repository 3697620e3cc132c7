package driver

import (
	"context"
	"encoding/json"
	"io"
	"net/rpc"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hyve-vm/hyve/internal/control"
	"github.com/hyve-vm/hyve/internal/lifecycle"
	"github.com/hyve-vm/hyve/internal/pki"
)

// connect serves a client, which it returns, and what the plugin tells the user.
func connect(t *testing.T, home string) (client *rpc.Client, said chan string, end chan error) {
	t.Helper()
	said, end = make(chan string, 100), make(chan error, 1)
	d := &driver{
		name: "xhyve",
		getenv: func(name string) string {
			return map[string]string{"HYVE_HOME": home, "DOCKER_CONFIG": filepath.Join(home, "docker"), "HOME": home}[name]
		},
		say: func(line string) { said <- line },
	}
	go func() { end <- serve(t.Context(), d) }()
	client, err := rpc.DialHTTP("tcp", <-said)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close() })
	return client, said, end
}

func TestProtocol(t *testing.T) {
	home := t.TempDir()
	client, said, end := connect(t, home)
	call := func(method string, args, reply any) error {
		return client.Call("RPCServerDriver."+method, args, reply)
	}
	ok := func(method string, args, reply any) {
		t.Helper()
		if err := call(method, args, reply); err != nil {
			t.Fatalf("%s: %v", method, err)
		}
	}
	for _, service := range []string{"RPCServerDriver", "RpcServerDriver"} {
		var version int
		if err := client.Call(service+".GetVersion", struct{}{}, &version); err != nil || version != 1 {
			t.Errorf("%s.GetVersion: %d, %v", service, version, err)
		}
	}
	ok("Heartbeat", struct{}{}, nil)
	// Before there is a machine, and without a trace.
	ok("SetConfigRaw", []byte(`{"MachineName":"flag-lookup"}`), nil)
	var flags []any
	ok("GetCreateFlags", struct{}{}, &flags)
	if n, isInt := flags[1].(*IntFlag); len(flags) != len(Flags) || !isInt || n.Name != "xhyve-cpu-count" || n.EnvVar != "XHYVE_CPU_COUNT" {
		t.Errorf("%d flags, the second is %+v", len(flags), flags[1])
	}
	if entries, _ := os.ReadDir(home); len(entries) > 0 {
		t.Errorf("asking for the flags left %v", entries)
	}

	store := filepath.Join(home, "store")
	ok("SetConfigRaw", []byte(`{"MachineName":"m","StorePath":"`+store+`","OfTomorrow":[1,2]}`), nil)
	var values any = &FlagValues{Values: map[string]any{
		"xhyve-cpu-count": 1, "xhyve-memory-size": 768, "xhyve-disk-size": 4000, "xhyve-qcow2": true,
		"xhyve-virtio-9p": []string{"/data"}, "swarm-master": false, "swarm-host": "tcp://0.0.0.0:3376",
	}}
	ok("SetConfigFromFlags", &values, nil)
	for _, want := range []string{"--xhyve-qcow2 is ignored: ", "--xhyve-virtio-9p is ignored: "} {
		if line := <-said; !strings.HasPrefix(line, want) {
			t.Errorf("said %q, want %q", line, want)
		}
	}
	var raw []byte
	ok("GetConfigRaw", struct{}{}, &raw)
	var kept map[string]any
	if err := json.Unmarshal(raw, &kept); err != nil {
		t.Fatal(err)
	}
	for field, want := range map[string]any{
		"MachineName": "m", "StorePath": store, "SSHUser": "docker", "CPU": 1.0, "Memory": 768.0, "DiskSize": 4000.0,
		"SwarmHost": "tcp://0.0.0.0:3376", "HyveHome": home,
	} {
		if kept[field] != want {
			t.Errorf("%s is %v, want %v", field, kept[field], want)
		}
	}
	if kept["OfTomorrow"] == nil {
		t.Error("a field of another version is lost")
	}
	for method, want := range map[string]string{
		"DriverName": "xhyve", "GetMachineName": "m", "GetSSHUsername": "docker",
		"GetSSHKeyPath": filepath.Join(store, "machines", "m", "id_rsa"),
	} {
		var got string
		if ok(method, struct{}{}, &got); got != want {
			t.Errorf("%s is %q, want %q", method, got, want)
		}
	}
	ok("PreCreateCheck", struct{}{}, nil)

	// The machine is gone, if it ever was there.
	var text string
	var state int
	for method, reply := range map[string]any{"GetState": &state, "GetURL": &text, "GetIP": &text, "GetSSHHostname": &text, "GetSSHPort": &state} {
		if err := call(method, struct{}{}, reply); err == nil || !strings.Contains(err.Error(), `machine "m" does not exist`) {
			t.Errorf("%s: %v", method, err)
		}
	}
	for _, method := range []string{"Start", "Stop", "Restart", "Kill"} {
		if err := call(method, struct{}{}, nil); err == nil || !strings.Contains(err.Error(), `machine "m" does not exist`) {
			t.Errorf("%s: %v", method, err)
		}
	}
	ok("Remove", struct{}{}, nil)
	ok("Close", struct{}{}, nil)
	if err := <-end; err != nil {
		t.Errorf("the plugin ended with %v", err)
	}
}

func TestBadInput(t *testing.T) {
	home := t.TempDir()
	var client *rpc.Client
	for config, want := range map[string]string{
		`{"MachineName":`:                                       "reading the driver's configuration",
		`{"MachineName":7}`:                                     "reading the driver's configuration",
		`[]`:                                                    "reading the driver's configuration",
		`{"MachineName":"../x"}`:                                "is no machine's name",
		`{"MachineName":"m","CPU":1000}`:                        "1000 CPUs are out of range",
		`{"MachineName":"m","CPU":0,"Memory":1}`:                "memory of 1MiB is out of range",
		`{"MachineName":"m","Memory":17592186044416}`:           "out of range",
		`{"MachineName":"m","DiskSize":17592186044416}`:         "out of range",
		`{"MachineName":"m","Boot2DockerURL":"sha256:zz"}`:      "finding image",
		`{"MachineName":"m","Memory":-1}`:                       "out of range",
		`{"MachineName":"m","Memory":0,"DiskSize":99999999999}`: "out of range",
	} {
		client, _, _ = connect(t, home)
		err := client.Call("RPCServerDriver.SetConfigRaw", []byte(config), nil)
		if err == nil {
			err = client.Call("RPCServerDriver.PreCreateCheck", struct{}{}, nil)
		}
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: %v, want %q", config, err, want)
		}
	}
	if entries, _ := os.ReadDir(home); len(entries) > 0 {
		t.Errorf("bad input left %v", entries)
	}
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	client, _, _ = connect(t, filepath.Join(file, "below"))
	err := client.Call("RPCServerDriver.SetConfigRaw", []byte(`{"MachineName":"m"}`), nil)
	if err == nil {
		err = client.Call("RPCServerDriver.PreCreateCheck", struct{}{}, nil)
	}
	if err == nil || !strings.HasPrefix(err.Error(), "making the data directory: ") || !strings.HasSuffix(err.Error(), ": set HYVE_HOME to a directory that you may write") {
		t.Errorf("a data directory below a file: %v", err)
	}
	var values any = "no flags"
	if err := client.Call("RPCServerDriver.SetConfigFromFlags", &values, nil); err == nil {
		t.Error("flags that are a text are taken")
	}
}

// A client that does not say any more that it is there is gone.
func TestSilence(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &Server{closed: make(chan struct{}, 1), alive: make(chan struct{}, 1)}
		began := time.Now()
		go func() {
			for range 3 {
				time.Sleep(5 * time.Second)
				s.Heartbeat(struct{}{}, nil)
			}
		}()
		if err := s.await(t.Context()); err == nil || time.Since(began) != 15*time.Second+heartbeatTimeout {
			t.Errorf("it ended with %v after %v", err, time.Since(began))
		}
	})
}

// What is under way is called off when the client is gone, and ends before the plugin.
func TestCalledOff(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	s := &Server{ctx: ctx}
	clearedUp := false
	began := make(chan struct{})
	go s.do(func(ctx context.Context) error {
		close(began)
		<-ctx.Done()
		clearedUp = true
		return ctx.Err()
	})
	<-began
	cancel()
	s.calls.Wait()
	if !clearedUp {
		t.Error("nobody cleared up")
	}
	if err := s.do(func(context.Context) error { panic("what now") }); err == nil || !strings.Contains(err.Error(), "what now") {
		t.Errorf("a panic is %v", err)
	}
}

// The variables are those of docker-machine-driver-xhyve's own help.
func TestVariables(t *testing.T) {
	want := strings.Fields(`XHYVE_BOOT2DOCKER_URL XHYVE_CPU_COUNT XHYVE_MEMORY_SIZE XHYVE_DISK_SIZE XHYVE_BOOT_CMD XHYVE_BOOT_KERNEL
		XHYVE_BOOT_INITRD XHYVE_UUID XHYVE_QCOW2 XHYVE_RAW_DISK XHYVE_VIRTIO_9P XHYVE_VIRTIO_9P_ROOT XHYVE_EXPERIMENTAL_NFS_SHARE
		XHYVE_EXPERIMENTAL_NFS_SHARE_ROOT`)
	if len(Flags) != len(want) {
		t.Fatalf("%d flags, want %d", len(Flags), len(want))
	}
	for i, f := range Flags {
		if got := f.Variable("xhyve"); got != want[i] {
			t.Errorf("--%s: %s, want %s", f.Long("xhyve"), got, want[i])
		}
		if f.Help() == "" {
			t.Errorf("--%s: no help", f.Long("xhyve"))
		}
	}
}

func TestCalled(t *testing.T) {
	for name, want := range map[string]bool{
		"docker-machine-driver-xhyve": true, "/usr/bin/docker-machine-driver-hyve": true,
		"hyve": false, "docker-machine": false, "/docker-machine-driver-x/hyve": false,
	} {
		if Called(name) != want {
			t.Errorf("Called(%q) = %v", name, !want)
		}
	}
}

func TestPrinter(t *testing.T) {
	r, w := io.Pipe()
	go func() { say := printer(w); say("a"); say("b"); w.Close() }()
	if out, _ := io.ReadAll(r); string(out) != "a\nb\n" {
		t.Errorf("printed %q", out)
	}
}

func FuzzConfig(f *testing.F) {
	f.Add([]byte(`{"MachineName":"m","CPU":2,"X":{"y":[1]}}`))
	f.Add([]byte(`{"machinename":"m","MachineName":"n"}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		var c config
		if json.Unmarshal(data, &c) != nil {
			return
		}
		first, err := json.Marshal(c)
		if err != nil {
			t.Fatalf("read, and not written: %v", err)
		}
		var again config
		if err := json.Unmarshal(first, &again); err != nil {
			t.Fatalf("written, and not read: %v", err)
		}
		if second, _ := json.Marshal(again); string(second) != string(first) {
			t.Errorf("%s became %s", first, second)
		}
	})
}

// The copy that docker-machine has made for the machine counts for more than what the next
// machine will get. What is no certificate counts for nothing.
func TestEngineCAs(t *testing.T) {
	store := t.TempDir()
	c := config{MachineName: "m", StorePath: store}
	write := func(dir, text string) {
		t.Helper()
		if err := os.MkdirAll(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, "ca.pem"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	authority := func() string {
		t.Helper()
		ca, err := pki.OpenCA(t.TempDir())
		if err != nil {
			t.Fatal(err)
		}
		return string(ca.PEM())
	}
	if cas := c.engineCAs(); len(cas) > 0 {
		t.Errorf("of nothing: %q", cas)
	}
	shared, own := authority(), authority()
	write(filepath.Join(store, "certs"), shared)
	if cas := c.engineCAs(); len(cas) != 1 || cas[0] != shared {
		t.Errorf("of the store: %q", cas)
	}
	write(c.machineDir(), "half a certifi")
	if cas := c.engineCAs(); len(cas) != 1 || cas[0] != shared {
		t.Errorf("of a damaged copy: %q", cas)
	}
	write(c.machineDir(), own)
	if cas := c.engineCAs(); len(cas) != 1 || cas[0] != own {
		t.Errorf("of the machine: %q", cas)
	}
}

func TestHintOfACreationThatFailed(t *testing.T) {
	err := withHint(afterCreate(&lifecycle.StartError{Name: "m", Failure: control.Failure{Cause: "x"}, Removed: true}))
	if want := `starting machine "m": x: hyve has removed it; docker-machine rm -f m clears away what docker-machine keeps of it`; err.Error() != want {
		t.Errorf("%q, want %q", err, want)
	}
}
