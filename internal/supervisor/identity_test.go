package supervisor

import (
	"context"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/hyve-vm/hyve/internal/machine"
)

func TestHostProxies(t *testing.T) {
	env := map[string]string{"http_proxy": "http://localhost:3128", "HTTPS_PROXY": "http://user:pw@127.0.0.1:3128/", "NO_PROXY": "localhost,.corp"}
	got := hostProxies(func(name string) string { return env[name] })
	want := map[string]string{
		"HTTP_PROXY":  "http://host.docker.internal:3128",
		"HTTPS_PROXY": "http://user:pw@host.docker.internal:3128/",
		"NO_PROXY":    "localhost,.corp",
	}
	for name, value := range want {
		if got[name] != value {
			t.Errorf("%s is %q, want %q", name, got[name], value)
		}
	}
	if len(hostProxies(func(string) string { return "" })) != 0 {
		t.Error("proxies out of nothing")
	}
}

// testMachine makes a machine without an image.
func testMachine(t *testing.T) *machine.Machine {
	t.Helper()
	home := machine.Home(t.TempDir())
	draft, err := home.Draft()
	if err != nil {
		t.Fatal(err)
	}
	defer draft.Discard()
	m := machine.New(home, machine.Spec{Name: "test", CPUs: 1, Memory: machine.MinMemory, Disk: machine.MinDisk, Image: "sha256:0"},
		netip.MustParseAddr("127.18.0.1"))
	if err := draft.Commit(m); err != nil {
		t.Fatal(err)
	}
	return m
}

// A certificate that is due is renewed, and the guest told of it, without a
// restart. A damaged one is due.
func TestCertificatesAreRenewed(t *testing.T) {
	id, err := openIdentity(testMachine(t))
	if err != nil {
		t.Fatal(err)
	}
	first, err := id.guestIdentity()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	told := make(chan string, 1)
	ended := make(chan error, 1)
	go func() {
		ended <- id.keepCertificates(ctx, 10*time.Millisecond, func() error {
			now, err := id.guestIdentity()
			told <- now.ServerCert
			return err
		})
	}()
	if err := os.WriteFile(filepath.Join(id.machine.Dir().ServerDir(), "server.pem"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	select {
	case cert := <-told:
		if cert == first.ServerCert {
			t.Error("the guest was told the old certificate")
		}
	case err := <-ended:
		t.Fatalf("it ended with %v", err)
	case <-ctx.Done():
		t.Fatal("the guest was not told")
	}
}
