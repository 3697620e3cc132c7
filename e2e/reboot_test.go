package e2e

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

// TestHostReboots is run in parts, between which the host's power fails: machines that
// were suspended, stopped and up at that moment have what they had. Then the host comes
// back with another processor than a suspended one has seen, with that again, and at last
// without its accelerator.
func TestHostReboots(t *testing.T) {
	switch *reboot {
	case "before":
		beforeReboot(t)
	case "after":
		afterReboot(t)
	case "other":
		otherProcessor(t)
	case "again":
		goesOn(t)
		suspend(t)
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
	hyve(t, "stop", "stopped")
	suspend(t)
}

// suspend freezes the machine "suspended", and has its state be on the host's disk, to which
// hyve leaves that when it likes.
func suspend(t *testing.T) {
	t.Helper()
	hyve(t, "suspend", "suspended")
	syscall.Sync()
}

// goesOn resumes the machine "suspended", in which nothing is lost.
func goesOn(t *testing.T) {
	t.Helper()
	hyve(t, "start", "suspended")
	if err := wantedAccelerator("suspended"); err != nil {
		t.Error(err)
	}
	if s := statusOf(t, "suspended"); !s.Thawed {
		t.Errorf("it was booted: %s", s.BootReason)
	}
	want, err := os.ReadFile(sumFile("suspended"))
	if err != nil {
		t.Fatal(err)
	}
	if got := dock(t, "suspended", "exec", "keeper", "sha256sum", "/dev/shm/data"); got != string(want) {
		t.Errorf("in memory it has %s, had %s", got, want)
	}
	keepsCount(t, "suspended")
}

// keepsCount asserts that a machine's disk has what was written to it before.
func keepsCount(t *testing.T, name string) {
	t.Helper()
	if got := strings.TrimSpace(inGuest(t, name, "cat "+countFile)); got != strconv.Itoa(len(name)) {
		t.Errorf("%s has %s on its disk", name, got)
	}
}

func afterReboot(t *testing.T) {
	if state := statusOf(t, "up").State; state != "Stopped" {
		t.Errorf("the machine that was up is %s", state)
	}
	goesOn(t)
	for _, name := range []string{"stopped", "up"} {
		hyve(t, "start", name)
		if err := wantedAccelerator(name); err != nil {
			t.Error(err)
		}
		if s := statusOf(t, name); s.Thawed != (name == "stopped") {
			t.Errorf("%s: thawed %t, %s", name, s.Thawed, s.BootReason)
		}
		keepsCount(t, name)
		eventually(t, name+"'s container", func() bool { return strings.Contains(dock(t, name, "ps"), "keeper") })
	}
	hyve(t, "stop", "stopped")
	suspend(t)
}

// otherProcessor: the suspended machine is kept and refused, the stopped one boots.
func otherProcessor(t *testing.T) {
	refused(t, "processor")
	hyve(t, "start", "stopped")
	if err := wantedAccelerator("stopped"); err != nil {
		t.Error(err)
	}
	boots(t, "stopped", "have changed")
	keepsCount(t, "stopped")
}

// withoutAccelerator: the suspended machine is kept and refused, not booted on emulation.
func withoutAccelerator(t *testing.T) {
	refused(t, "kvm")
	if *long {
		hyve(t, "start", "--cold", "suspended")
		keepsCount(t, "suspended")
	}
}

// refused asserts that the machine "suspended" is not started here, because of something that
// its user is told of, and is as it was.
func refused(t *testing.T, why string) {
	t.Helper()
	for range 2 {
		_, errText, code := result(t, binary, "start", "suspended")
		t.Log(errText)
		if code != 1 || !strings.Contains(errText, why) || !strings.Contains(errText, "--cold") {
			t.Errorf("start: %d, %s", code, errText)
		}
	}
	if s := statusOf(t, "suspended"); s.State != "Suspended" {
		t.Errorf("it is %s now", s.State)
	}
}
