//go:build linux

package guest

import (
	"slices"
	"strings"
	"testing"
)

func TestCommandLine(t *testing.T) {
	for in, want := range map[string]string{
		"/usr/sbin/poweroff":       "power off",
		"halt -p":                  "power off",
		"reboot":                   "power reboot",
		"shutdown -h now":          "power off",
		"shutdown -r now":          "power reboot",
		"shutdown -hr now":         "power reboot",
		"shutdown --reboot":        "power reboot",
		"shutdown --poweroff":      "power off",
		"/usr/bin/sethostname new": "hostname new",
		"/etc/init.d/docker stop":  "engine stop",
	} {
		if got, ok := commandLine(strings.Fields(in)); !ok || got != want {
			t.Errorf("%q asks %q, want %q", in, got, want)
		}
	}
	if line, ok := commandLine([]string{"/usr/bin/hyve-init", "poweroff"}); ok {
		t.Errorf("hyve-init itself asks %q", line)
	}
}

func TestHostsFile(t *testing.T) {
	if got := hostsFile("m", "192.168.127.2/24"); !strings.HasSuffix(got, "\n192.168.127.2\tm\n") {
		t.Errorf("hostsFile = %q", got)
	}
	if got := hostsFile("m", "nonsense"); strings.Contains(got, "m\n") {
		t.Errorf("hostsFile = %q", got)
	}
}

func TestNames(t *testing.T) {
	for name, ok := range map[string]bool{"a": true, "default": true, "A-1.b": true, "": false, "-a": false, "a-": true,
		"a b": false, "a\n": false, strings.Repeat("a", 64): true, strings.Repeat("a", 65): false} {
		if validName.MatchString(name) != ok {
			t.Errorf("name %q: %t", name, !ok)
		}
	}
}

func TestDiskRoom(t *testing.T) {
	for size, want := range map[int64]int64{20 << 30: 512 << 20, 1 << 30: 107374182, 0: 0} {
		if got := diskRoom(size); got != want {
			t.Errorf("diskRoom(%d) = %d, want %d", size, got, want)
		}
	}
}

func TestProxyEnvironment(t *testing.T) {
	got := proxyEnvironment(map[string]string{"HTTP_PROXY": "http://p", "NO_PROXY": ""})
	if !slices.Equal(got, []string{"HTTP_PROXY=http://p", "http_proxy=http://p"}) {
		t.Errorf("proxyEnvironment = %q", got)
	}
}
