//go:build linux

package engine

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/hyve-vm/hyve/internal/guest/outbox/outboxtest"
	"github.com/hyve-vm/hyve/internal/guestapi"
)

func TestTelling(t *testing.T) {
	for _, test := range []struct {
		printed, want string
		refused       bool
	}{
		// As docker 26 prints them.
		{"Status: unknown flag: --nosuchopt\nSee 'dockerd --help'., Code: 125", "unknown flag: --nosuchopt", true},
		{"Status: unknown flag: --nosuchopt\nSee 'dockerd --help'.\n\nUsage:\tdockerd [OPTIONS]\n\nOptions:\n  -D, --debug\n, Code: 125", "unknown flag: --nosuchopt", true},
		{"Status: invalid argument \"x\" for \"--mtu\" flag: strconv.ParseInt: parsing \"x\": invalid syntax\nSee 'dockerd --help'., Code: 125",
			`invalid argument "x" for "--mtu" flag: strconv.ParseInt: parsing "x": invalid syntax`, true},
		{`time="2026-11-27T03:09:53.940137416Z" level=info msg="Starting up"
time="2026-11-27T03:09:54.286404833Z" level=info msg="[graphdriver] trying configured driver: foo"
time="2026-11-27T03:09:54.289147055Z" level=error msg="Failed to GetDriver graph" driver=foo error="graphdriver plugins are only supported with experimental mode" home-dir=/var/lib/docker
failed to start daemon: error initializing graphdriver: driver not supported: foo`,
			"failed to start daemon: error initializing graphdriver: driver not supported: foo", true},
		{"unable to configure the Docker daemon with file /etc/docker/daemon.json: the following directives don't match any configuration option: x",
			"unable to configure the Docker daemon with file /etc/docker/daemon.json: the following directives don't match any configuration option: x", true},
		{`time="2026-11-27T03:09:53Z" level=info msg="Starting up"
failed to start daemon: insecure registry a b is not valid: invalid host "a b"`,
			`failed to start daemon: insecure registry a b is not valid: invalid host "a b"`, true},
		{`time="2026-11-27T03:09:53Z" level=info msg="stopping event stream following graceful shutdown" error="<nil>" module=libcontainerd namespace=moby
failed to start daemon: Error initializing network controller: invalid CIDR address: foo`,
			"failed to start daemon: Error initializing network controller: invalid CIDR address: foo", true},
		{"failed to start daemon: Error initializing network controller: error creating default \"bridge\" network: bridge device with non default name br9 must be created manually",
			"failed to start daemon: Error initializing network controller: error creating default \"bridge\" network: bridge device with non default name br9 must be created manually", true},
		{"failed to start daemon: You specified -b & --bip, mutually exclusive options. Please specify only one",
			"failed to start daemon: You specified -b & --bip, mutually exclusive options. Please specify only one", true},
		// What may be better the next time.
		{`time="2026-11-27T03:09:53Z" level=info msg="Starting up"
failed to start daemon: failed to dial "/run/containerd/containerd.sock": context deadline exceeded`,
			`failed to start daemon: failed to dial "/run/containerd/containerd.sock": context deadline exceeded`, false},
		{`time="2026-11-27T03:09:53Z" level=fatal msg="failed to \"start\"" error="no space left on device"`, `failed to "start": no space left on device`, false},
		{`time="x" level=fatal msg=short`, "short", false},
		{"time=nothing else", "time=nothing else", false},
		{"panic: runtime error: index out of range [1]\n\ngoroutine 1 [running]:\nmain.main()\n\t/x.go:1 +0x1", "panic: runtime error: index out of range [1]", false},
		{"a line\n\n", "a line", false},
		{"\x1b[31mred\x07", "?[31mred?", false},
		{"", "", false},
	} {
		got := telling(strings.Split(test.printed, "\n"))
		if got != test.want || refused(got) != test.refused {
			t.Errorf("%s:\n%q, refused %t; want %q", test.printed, got, refused(got), test.want)
		}
	}
}

func FuzzTelling(f *testing.F) {
	f.Add("time=\"x\" level=info msg=\"a\\n\"\nStatus: b")
	f.Add(strings.Repeat("\u00e9", maxCause))
	f.Fuzz(func(t *testing.T, printed string) {
		got := telling(strings.Split(printed, "\n"))
		if len(got) > maxCause+len("...") || strings.ContainsFunc(got, func(r rune) bool { return r < ' ' || r >= 0x7f && r < 0xa0 }) || !utf8.ValidString(got) {
			t.Errorf("%q: %q", printed, got)
		}
	})
}

// What a service will not take is not tried again; of what it has printed, one line is told,
// of the last attempt alone.
func TestServiceIsTriedAsOftenAsItHelps(t *testing.T) {
	for script, want := range map[string]struct {
		attempts int
		cause    string
	}{
		"echo at $$ >&2; echo 'Status: unknown flag: --x'; echo See; exit 1":          {1, "test exited with status 1: unknown flag: --x"},
		"echo first; echo of $(wc -l < \"$MARKS\") >&2; exit 7":                       {3, "test exited with status 7: of 3 (given up after 3 attempts)"},
		"[ $(wc -l < \"$MARKS\") = 3 ] || { echo before; exit 7; }; kill -9 $$":       {3, "test killed by signal 9 (killed) (given up after 3 attempts)"},
		"[ $(wc -l < \"$MARKS\") = 2 ] && { echo unknown flag: -x; exit 5; }; exit 6": {2, "test exited with status 5: unknown flag: -x (given up after 2 attempts)"},
	} {
		marks := t.TempDir() + "/marks"
		s, _ := newTestService(t, fmt.Sprintf("MARKS=%s; echo x >> $MARKS; %s", marks, script))
		e := nextFailure(t, s)
		if e.Cause.String() != want.cause {
			t.Errorf("%s: the cause is %q, want %q", script, e.Cause, want.cause)
		}
		if n := lineCount(t, marks); n != want.attempts {
			t.Errorf("%s: %d attempts, want %d", script, n, want.attempts)
		}
	}
}

func nextFailure(t *testing.T, s *service) *guestapi.Failed {
	t.Helper()
	return outboxtest.Next(t, s.out, func(e guestapi.Event) bool { return e.Failed != nil }).Failed
}

func lineCount(t *testing.T, path string) int {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return strings.Count(string(text), "\n")
}
