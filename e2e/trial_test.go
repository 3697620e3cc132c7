package e2e

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// faulty is a hypervisor whose thaws have a fault, see e2e/faulty. What came of its trials is
// forgotten in the end.
func faulty(t *testing.T, fault string) string {
	t.Helper()
	needsFreezing(t)
	if s := statusOf(t, shared); s.Accelerator != "tcg" {
		t.Skip("the faults are emulation's")
	}
	known := trials(t)
	t.Cleanup(func() {
		for path := range trials(t) {
			if !known[path] {
				os.Remove(path)
			}
		}
	})
	path := filepath.Join(t.TempDir(), fault)
	if err := os.Rename(buildForGuest(t, "faulty"), path); err != nil {
		t.Fatal(err)
	}
	return path
}

func trials(t *testing.T) map[string]bool {
	t.Helper()
	paths, err := filepath.Glob(filepath.Join(home, "templates", "*.json"))
	if err != nil {
		t.Fatal(err)
	}
	known := map[string]bool{}
	for _, path := range paths {
		known[path] = true
	}
	return known
}

// Where a thawed machine has a clock that does not go as the host's nobody gets one: machines
// boot, are not suspended, and status and doctor say why.
func TestTrialOfClock(t *testing.T) {
	qemu := faulty(t, "clock")
	before := templateDrafts(t)
	create(t, "untimely", "--qemu", qemu)
	const reason = "states cannot be kept here, a thawed machine was tried: its clock"
	boots(t, "untimely", reason)
	if out := hyve(t, "status", "untimely"); !strings.Contains(out, "booted: "+reason) {
		t.Errorf("status says %s", out)
	}
	if out := hyve(t, "doctor"); !strings.Contains(out, "these boot: its clock") || !strings.Contains(out, "hyve image build --freeze tries again") {
		t.Errorf("doctor says %s", out)
	}
	dock(t, "untimely", "run", "-d", "--name", "runs", "busybox", "sleep", "1000")
	out, text, code := result(t, binary, "suspend", "untimely")
	if code != 1 || !strings.Contains(text, reason) || strings.Count(text, "\n") != 1 {
		t.Errorf("suspend: exit status %d, %s%s", code, out, text)
	}
	if out := dock(t, "untimely", "ps", "-q", "--filter", "name=runs"); out == "" {
		t.Error("its container does not run on")
	}
	hyve(t, "stop", "untimely")
	if left, _ := filepath.Glob(frozenDir("untimely") + "*"); len(left) > 0 {
		t.Errorf("it was frozen: %v", left)
	}
	if drafts := templateDrafts(t); !slices.Equal(drafts, before) {
		t.Errorf("left of the trial: %v, before it were %v", drafts, before)
	}
}

// templateDrafts are templates in the making; those of creations that were killed stay a while.
func templateDrafts(t *testing.T) []string {
	t.Helper()
	drafts, err := filepath.Glob(filepath.Join(home, "templates", ".draft-*"))
	if err != nil {
		t.Fatal(err)
	}
	return drafts
}

// A byte of memory that is not as it was frozen is seen.
func TestTrialOfMemory(t *testing.T) {
	takesLong(t)
	create(t, "forgetful", "--qemu", faulty(t, "memory"))
	boots(t, "forgetful", "pages of its memory")
}
