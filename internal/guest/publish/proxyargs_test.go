//go:build linux

package publish

import (
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

func TestParseProxyCall(t *testing.T) {
	for _, test := range []struct {
		in   string
		want proxyCall
		args string
	}{
		{"-proto tcp -host-ip 0.0.0.0 -host-port 80 -container-ip 172.17.0.2 -container-port 8080",
			proxyCall{publication: publication{"tcp", "0.0.0.0", 80, "172.17.0.2:8080"}},
			"-container-ip 172.17.0.2 -container-port 8080"},
		{"--proto=udp --host-ip=::1 --host-port=53 -x --container-ip=fd00::2 --container-port=5",
			proxyCall{publication: publication{"udp", "::1", 53, "[fd00::2]:5"}}, "-x -container-ip fd00::2 -container-port 5"},
		{"-proto sctp -host-ip 10.0.0.1 -host-port 80 -use-listen-fd",
			proxyCall{publication: publication{"sctp", "10.0.0.1", 80, ":"}, listenFD: true}, ""},
		{"-proto tcp -host-ip 127.0.0.1 -host-port 80 -use-listen-fd=true -container-port 8080",
			proxyCall{publication: publication{"tcp", "127.0.0.1", 80, ":8080"}, listenFD: true}, "-container-port 8080"},
	} {
		got, err := parseProxyCall(strings.Fields(test.in))
		test.want.args = strings.Fields(test.args)
		if got.args == nil {
			got.args = []string{}
		}
		if err != nil || !reflect.DeepEqual(got, test.want) {
			t.Errorf("parseProxyCall(%q) = %+v, %v; want %+v", test.in, got, err, test.want)
		}
		at := strings.Join(got.at(grant{"192.0.2.1", 8080}), " ")
		want := strings.TrimSpace("-proto " + got.protocol + " -host-ip 192.0.2.1 -host-port 8080 " + test.args)
		if at != want {
			t.Errorf("at another address: %s, want %s", at, want)
		}
		if p, err := parsePortLine(strings.Fields(got.portLine())[1:]); err != nil || p != got.publication {
			t.Errorf("parsePortLine(%q) = %+v, %v", got.portLine(), p, err)
		}
	}
	for _, bad := range []string{"", "-proto tcp", "-proto", "-proto tcp -host-port 70000", "-proto tcp -host-port 0", "-proto tcp -host-port x"} {
		if c, err := parseProxyCall(strings.Fields(bad)); err == nil {
			t.Errorf("parseProxyCall(%q) = %+v", bad, c)
		}
	}
	for _, bad := range []string{"", "tcp 1.2.3.4 5", "tcp 1.2.3.4 0 x", "ip 1.2.3.4 1 x", "tcp x 1 x", "tcp 1.2.3.4 65536 x", "tcp fe80::1%eth0 1 x"} {
		if _, err := parsePortLine(strings.Fields(bad)); err == nil {
			t.Errorf("parsePortLine(%q) is no error", bad)
		}
	}
}

// dockerd 28 binds ports itself, at addresses that the host's connections do not come to.
func TestProxyAstray(t *testing.T) {
	for _, test := range []struct {
		hostIP   string
		listenFD bool
		grant    grant // for port 80
		want     bool
	}{
		{"0.0.0.0", false, grant{"0.0.0.0", 4080}, false},
		{"0.0.0.0", true, grant{"0.0.0.0", 80}, false},
		{"0.0.0.0", true, grant{"0.0.0.0", 4080}, true},
		{"::", true, grant{"::", 80}, false},
		{"::", true, grant{"0.0.0.0", 4080}, true},
		{"127.0.0.1", true, grant{"0.0.0.0", 80}, true},
		{"::1", true, grant{"0.0.0.0", 4080}, true},
	} {
		c := proxyCall{publication: publication{"tcp", test.hostIP, 80, "172.17.0.2:80"}, listenFD: test.listenFD}
		if astray := c.astray(test.grant); astray != test.want {
			t.Errorf("%+v: %t", test, astray)
		}
	}
}

func TestGrant(t *testing.T) {
	for answer, want := range map[string]string{
		"ok 0.0.0.0 80\n": "{0.0.0.0 80}", "ok :: 80\n": "{:: 80}",
		"refused bind: address already in use (x)\n": "bind: address already in use (x)",
		"ok\n": "error", "ok :: 0\n": "error", "ok :: 65536\n": "error", "ok 1.2.3.4 1\n": "error", "ok :: 1 2\n": "error",
		"error: no\n": "error", "": "error",
	} {
		g, refused, err := parseGrant(answer)
		got := refused
		if err != nil {
			got = "error"
		} else if refused == "" {
			got = fmt.Sprint(g)
		}
		if got != want {
			t.Errorf("%q: %s, want %s", answer, got, want)
		}
	}
	if got, want := (publication{"tcp", "::", 80, ""}).refusal("bind: no"), "listen tcp6 [::]:80: bind: no"; got != want {
		t.Errorf("%s, want %s", got, want)
	}
}

func TestGivenByUser(t *testing.T) {
	dir := t.TempDir()
	for id, config := range map[string]string{
		"a": `{"PortBindings":{"80/tcp":[{"HostIp":"","HostPort":"40080"}],"81/tcp":[{"HostIp":"","HostPort":""}]}}`,
		"b": `{"PortBindings":{"80/tcp":[{"HostPort":"41000-41010"}]}}`,
		"c": `{`,
		"d": `{"PortBindings":null}`,
		"e": `{"PortBindings":{"80/tcp":[{"HostPort":"41005"}],"81/tcp":[{"HostPort":"42000-42000"}]}}`,
	} {
		os.MkdirAll(filepath.Join(dir, id), 0o700)
		os.WriteFile(filepath.Join(dir, id, "hostconfig.json"), []byte(config), 0o600)
	}
	for port, want := range map[uint16]origin{40080: named, 40081: unknown, 41000: ranged, 41005: named, 41010: ranged, 41011: unknown, 42000: named, 80: unknown} {
		if got := givenByUser(dir, port); got != want {
			t.Errorf("port %d: %d, want %d", port, got, want)
		}
	}
}

func FuzzParseProxyCall(f *testing.F) {
	f.Add("-proto tcp -host-ip 0.0.0.0 -host-port 80")
	f.Fuzz(func(t *testing.T, s string) {
		if c, err := parseProxyCall(strings.Fields(s)); err == nil && (c.port == 0 || c.protocol == "") {
			t.Errorf("parseProxyCall(%q) = %+v", s, c)
		}
		parsePortLine(strings.Fields(s))
	})
}
