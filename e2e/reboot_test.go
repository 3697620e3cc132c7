package e2e

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// TestHostReboots is run in halves, between which the host's power fails: machines that
// were suspended, stopped and up at that moment have what they had. At last the host comes
// back without the accelerator of a suspended one.
func TestHostReboots(t *testing.T) {
	switch *reboot {
	case "before":
		beforeReboot(t)
	case "after":
		afterReboot(t)
	case "without":
		withoutAccelerator(t)
	default:
		t.Skip("the host reboots in the midst of it: make e2e-kvm")
	}
}

// remembered is a file in the memory of a container, and its checksum on the host.
const remembered = "dd if=/dev/urandom of=/dev/shm/data bs=1M count=20 2>/dev/null; sha256sum /dev/shm/data; sleep 100000"

func sumFile(name string) string { return filepath.Join(home, name+".sum") }

// keepUp makes a machine that stays when the test is over.
func keepUp(t *testing.T, name string) {
	t.Helper()
	if out, err := try(limit, binary, "create", name, "--registry-mirror", registry, "--memory", "2GiB"); err != nil {
		t.Fatal(err, out)
	}
	if err := wantedAccelerator(name); err != nil {
		t.Fatal(err)
	}
	dock(t, name, "run", "-d", "--name", "keeper", "--restart", "always", "busybox", "sh", "-c", remembered)
	keepCount(t, name, len(name))
}

func beforeReboot(t *testing.T) {
	for _, name := range []string{"suspended", "stopped", "up"} {
		keepUp(t, name)
	}
	var sum string
	eventually(t, "a checksum", func() bool { sum = dock(t, "suspended", "logs", "keeper"); return sum != "" })
	if err := os.WriteFile(sumFile("suspended"), []byte(sum), 0o600); err != nil {
		t.Fatal(err)
	}
	hyve(t, "suspend", "suspended")
	hyve(t, "stop", "stopped")
}

func afterReboot(t *testing.T) {
	if state := statusOf(t, "up").State; state != "Stopped" {
		t.Errorf("the machine that was up is %s", state)
	}
	for _, name := range []string{"suspended", "stopped", "up"} {
		hyve(t, "start", name)
		if err := wantedAccelerator(name); err != nil {
			t.Error(err)
		}
		if s := statusOf(t, name); s.Thawed != (name != "up") {
			t.Errorf("%s: thawed %t, %s", name, s.Thawed, s.BootReason)
		}
		if got := strings.TrimSpace(inGuest(t, name, "cat "+countFile)); got != strconv.Itoa(len(name)) {
			t.Errorf("%s has %s on its disk", name, got)
		}
		eventually(t, name+"'s container", func() bool { return strings.Contains(dock(t, name, "ps"), "keeper") })
	}
	want, err := os.ReadFile(sumFile("suspended"))
	if err != nil {
		t.Fatal(err)
	}
	if got := dock(t, "suspended", "exec", "keeper", "sha256sum", "/dev/shm/data"); got != string(want) {
		t.Errorf("in memory it has %s, had %s", got, want)
	}
	hyve(t, "suspend", "suspended")
}

// withoutAccelerator: the machine is kept and refused, not booted on emulation.
func withoutAccelerator(t *testing.T) {
	for range 2 {
		_, errText, code := result(t, binary, "start", "suspended")
		if code != 1 || !strings.Contains(errText, "kvm") || !strings.Contains(errText, "--cold") {
			t.Errorf("start: %d, %s", code, errText)
		}
	}
	if s := statusOf(t, "suspended"); s.State != "Suspended" {
		t.Errorf("it is %s now", s.State)
	}
	if *long {
		hyve(t, "start", "--cold", "suspended")
		if got := strings.TrimSpace(inGuest(t, "suspended", "cat "+countFile)); got != strconv.Itoa(len("suspended")) {
			t.Errorf("after --cold it has %s on its disk", got)
		}
	}
}
