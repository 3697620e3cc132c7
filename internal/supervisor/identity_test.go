package supervisor

import (
	"context"
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hyve-vm/hyve/internal/guestapi"
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
	both := map[string]string{"HTTP_PROXY": "http://upper.test", "http_proxy": "http://lower.test"}
	if got := hostProxies(func(name string) string { return both[name] })["HTTP_PROXY"]; got != "http://lower.test" {
		t.Errorf("of two %q counts, which is another one on the host", got)
	}
}

// A proxy on the host's localhost is on the host for the guest, too, however it is written.
// Others are left to the letter.
func TestProxiesOnLocalhost(t *testing.T) {
	const host = "host.docker.internal"
	for given, want := range map[string]string{
		"localhost:3128":                        "http://" + host + ":3128",
		"localhost":                             "http://" + host + ":80",
		"127.0.0.1:3128":                        "http://" + host + ":3128",
		"user:pw@localhost:3128":                "http://user:pw@" + host + ":3128",
		"user@127.0.0.1:3128/":                  "http://user@" + host + ":3128/",
		"http://user:p%40w%3A@localhost:3128":   "http://user:p%40w%3A@" + host + ":3128",
		"http://LOCALHOST:3128":                 "http://" + host + ":3128",
		"HTTP://localhost:":                     "http://" + host + ":80",
		"http://localhost.:3128":                "http://" + host + ":3128",
		"http://proxy.localhost:3128":           "http://" + host + ":3128",
		"http://Proxy.LocalHost.:3128":          "http://" + host + ":3128",
		"http://localhost.localdomain:3128":     "http://" + host + ":3128",
		"http://localhost4:3128":                "http://" + host + ":3128",
		"http://ip6-localhost:3128":             "http://" + host + ":3128",
		"http://127.1:3128":                     "http://" + host + ":3128",
		"127.1":                                 "http://" + host + ":80",
		"http://127.255.0.9:3128":               "http://" + host + ":3128",
		"http://127.0.1:3128":                   "http://" + host + ":3128",
		"http://2130706433:3128":                "http://" + host + ":3128",
		"http://0x7f000001:3128":                "http://" + host + ":3128",
		"http://0X7F.1:3128":                    "http://" + host + ":3128",
		"http://0177.0.0.01:3128":               "http://" + host + ":3128",
		"http://0.0.0.0:3128":                   "http://" + host + ":3128",
		"http://0:3128":                         "http://" + host + ":3128",
		"http://[::1]:3128":                     "http://" + host + ":3128",
		"[::1]:3128":                            "http://" + host + ":3128",
		"http://[::]:3128":                      "http://" + host + ":3128",
		"http://[0:0:0:0:0:0:0:1]:3128":         "http://" + host + ":3128",
		"http://[::ffff:127.0.0.1]:3128":        "http://" + host + ":3128",
		"http://[::1%25lo]:3128":                "http://" + host + ":3128",
		"https://127.0.0.1":                     "https://" + host + ":443",
		"https://localhost/":                    "https://" + host + ":443/",
		"socks5://localhost":                    "socks5://" + host + ":1080",
		"socks5h://user:pw@localhost":           "socks5h://user:pw@" + host + ":1080",
		"http://localhost":                      "http://" + host + ":80",
		"proxy.test:3128":                       "proxy.test:3128",
		"user:pw@proxy.test:3128":               "user:pw@proxy.test:3128",
		"http://10.0.0.1:3128":                  "http://10.0.0.1:3128",
		"http://126.1:3128":                     "http://126.1:3128",
		"http://127.256:3128x":                  "http://127.256:3128x",
		"http://127.0.0.256:3128":               "http://127.0.0.256:3128",
		"http://127.0.0.0.1:3128":               "http://127.0.0.0.1:3128",
		"http://127.0.0.08:3128":                "http://127.0.0.08:3128",
		"http://0b1111111000000000000000000001": "http://0b1111111000000000000000000001",
		"http://127.example:3128":               "http://127.example:3128",
		"http://localhost.test:3128":            "http://localhost.test:3128",
		"http://notlocalhost:3128":              "http://notlocalhost:3128",
		"http://[fe80::1]:3128":                 "http://[fe80::1]:3128",
		"http://HOST.test:3128/":                "http://HOST.test:3128/",
		"http://localhost@proxy.test:3128":      "http://localhost@proxy.test:3128",
		"localhost@proxy.test:3128":             "localhost@proxy.test:3128",
		":3128":                                 "http://" + host + ":3128",
		"http://":                               "http://",
		"%zz":                                   "%zz",
	} {
		for _, name := range []string{"HTTP_PROXY", "HTTPS_PROXY"} {
			got := hostProxies(func(asked string) string {
				if asked == name {
					return given
				}
				return ""
			})
			if len(got) != 1 || got[name] != want {
				t.Errorf("%s=%s is %q, want %q", name, given, got, want)
			}
		}
	}
}

func FuzzProxyForGuest(f *testing.F) {
	f.Add("user:pw@127.1:3128")
	f.Add("https://[::1%25lo]")
	f.Fuzz(func(t *testing.T, value string) {
		if got := proxyForGuest(value); got != value && proxyForGuest(got) != got {
			t.Errorf("%q is %q, and then %q", value, got, proxyForGuest(got))
		}
	})
}

// Proxies, and the passwords in them, go to a machine that may have them.
func TestProxiesAreASetting(t *testing.T) {
	t.Setenv("HTTPS_PROXY", "http://user:pw@127.0.0.1:3128/")
	for list, want := range map[string]bool{"": true, "proxies": true, "none": false, "search,zone": false} {
		m := testMachine(t)
		m.FromHost = list
		id, err := openIdentity(m)
		if err != nil {
			t.Fatal(err)
		}
		told, err := id.guestIdentity()
		if err != nil {
			t.Fatal(err)
		}
		if got := told.Proxies["HTTPS_PROXY"] != ""; got != want {
			t.Errorf("from-host=%s: %v", list, told.Proxies)
		}
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
// restart, again if that failed. A damaged one is due.
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
	failed := make(chan error, 1)
	deaf := true
	go id.keepCertificates(ctx, 10*time.Millisecond, func() error {
		if deaf {
			deaf = false
			return errors.New("it does not hear")
		}
		now, err := id.guestIdentity()
		told <- now.ServerCert
		return err
	}, func(err error) { failed <- err })
	if err := os.WriteFile(filepath.Join(id.machine.Dir().ServerDir(), "server.pem"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	select {
	case cert := <-told:
		if cert == first.ServerCert {
			t.Error("the guest was told the old certificate")
		}
	case <-ctx.Done():
		t.Fatal("the guest was not told")
	}
	if err := <-failed; !strings.HasSuffix(err.Error(), "it does not hear") {
		t.Errorf("before that: %v", err)
	}
}

func TestLastWords(t *testing.T) {
	for tail, want := range map[string]string{
		"[1.0] Linux\r\n[1.0] Kernel panic - old\r\nend\r\n": "kernel panic - old",
		"[1.0] Linux\r\nbye\r\n":                             "its console ends with: bye",
		"bye\x1b]0;title\a":                                  "its console ends with: bye?]0;title?",
		strings.Repeat("x", consoleTail):                     "its console ends with: " + strings.Repeat("x", guestapi.MaxText-3) + "…",
		"\n":                                                 "its console says nothing",
		"":                                                   "its console says nothing",
	} {
		if got := lastWords([]byte(tail)); got != want {
			t.Errorf("of %.80q: %q, want %q", tail, got, want)
		}
	}
}

// A CA that was put in the place of the other is the one that counts from then on.
func TestReopenTakesTheNewCA(t *testing.T) {
	id, err := openIdentity(testMachine(t))
	if err != nil {
		t.Fatal(err)
	}
	first, err := id.guestIdentity()
	if err != nil {
		t.Fatal(err)
	}
	dir := id.machine.Home().PKIDir()
	if err := os.Rename(dir, dir+".old"); err != nil {
		t.Fatal(err)
	}
	if err := id.reopen(); err != nil {
		t.Fatal(err)
	}
	second, err := id.guestIdentity()
	if err != nil || second.CA == first.CA || second.ServerCert == first.ServerCert {
		t.Errorf("the old CA is told, %v", err)
	}
	exported, err := os.ReadFile(filepath.Join(string(id.machine.Dir()), "ca.pem"))
	if err != nil || string(exported) != second.CA {
		t.Errorf("docker clients have the old CA, %v", err)
	}
}
