package qemu

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/hyve-vm/hyve/internal/hypervisor"
)

// TestKVMVerdict runs the test guest for real, several times: whatever this
// host is, the verdict is quick, final and the same.
func TestKVMVerdict(t *testing.T) {
	dev, v := openKVM("/dev/kvm")
	if dev == nil {
		t.Skip(v.Reason)
	}
	defer dev.Close()
	runs := 20
	if testing.Short() {
		runs = 5
	}
	var first hostVerdict
	var shortest, longest time.Duration
	for range runs {
		began := time.Now()
		v := testKVM(context.Background(), dev)
		took := time.Since(began)
		longest = max(longest, took)
		if shortest == 0 || took < shortest {
			shortest = took
		}
		t.Logf("%s works=%t final=%t %s", took.Round(10*time.Microsecond), v.Works, v.final, v.Reason)
		if !v.final {
			continue
		}
		if first == (hostVerdict{}) {
			first = v
		}
		if v.Works != first.Works {
			t.Errorf("works is %t, was %t", v.Works, first.Works)
		}
		if !v.Works && v.Reason == "" {
			t.Error("no reason")
		}
	}
	t.Logf("shortest %s, longest %s", shortest, longest)
	// The rest is the load of the host on which the tests run.
	if shortest > time.Second || longest > 10*time.Second {
		t.Errorf("took %s to %s, at most 0.3 s when nothing else runs", shortest, longest)
	}
	vendor, err := os.ReadFile("/proc/cpuinfo")
	if err != nil || !first.final {
		return
	}
	// Without vmx or svm there is no hardware under KVM, whatever it is.
	if flags := string(vendor); !strings.Contains(flags, " vmx") && !strings.Contains(flags, " svm") && first.Works && runtime.GOARCH == "amd64" {
		t.Error("KVM is said to work on a processor without vmx and svm")
	}
}

func TestOpenKVM(t *testing.T) {
	dir := t.TempDir()
	dev, v := openKVM(filepath.Join(dir, "kvm"))
	if dev != nil || !strings.Contains(v.Reason, "does not exist") || v.Hint == "" || v.final {
		t.Errorf("absent: %+v", v)
	}
	if os.Geteuid() == 0 {
		return // root may open anything
	}
	path := filepath.Join(dir, "forbidden")
	if err := os.WriteFile(path, nil, 0); err != nil {
		t.Fatal(err)
	}
	dev, v = openKVM(path)
	if dev != nil || !strings.Contains(v.Reason, "no permission") || !strings.Contains(v.Hint, "kvm") || v.final {
		t.Errorf("forbidden: %+v", v)
	}
}

// TestAcceleratorIsKept: the guest runs once a boot and QEMU, and a verdict of
// another boot is no verdict.
func TestAcceleratorIsKept(t *testing.T) {
	dev, why := openKVM("/dev/kvm")
	cache := t.TempDir()
	q := &QEMU{Path: "/q", Version: Version{7, 2, 0}, Accels: []string{"kvm", "tcg"}, key: "/q 1", cacheDir: cache}
	if dev == nil {
		v := q.Accelerator(t.Context())
		if v.Name != accelTCG || v.Reason != why.Reason || v.Cached {
			t.Errorf("%+v", v)
		}
		t.Skip(why.Reason)
	}
	dev.Close()
	first := q.Accelerator(t.Context())
	t.Logf("%v in %s", first, first.Took)
	path := filepath.Join(cache, "accel.json")
	kept, err := os.ReadFile(path)
	if err != nil {
		t.Skipf("the test did not come to an end: %v", first)
	}
	again := q.Accelerator(t.Context())
	if !again.Cached || again.Name != first.Name || again.Reason != first.Reason || again.Hint != first.Hint {
		t.Errorf("%+v, was %+v", again, first)
	}
	t.Logf("kept: %s", again.Took)

	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		t.Fatal(err)
	}
	// Turn the verdict round: believed in this boot, but not after another.
	for id, believed := range map[string]bool{strings.TrimSpace(string(boot)): true, "00000000-0000-4000-8000-000000000000": false} {
		turned := strings.Replace(string(kept), strings.TrimSpace(string(boot)), id, 1)
		works := strings.Contains(turned, `"works":true`)
		turned = strings.Replace(turned, fmt.Sprintf(`"works":%t`, works), fmt.Sprintf(`"works":%t`, !works), 1)
		if err := os.WriteFile(path, []byte(turned), 0o600); err != nil {
			t.Fatal(err)
		}
		v := q.Accelerator(t.Context())
		if v.Cached != believed || (v.Name == first.Name) == believed {
			t.Errorf("boot %s: %+v", id, v)
		}
		if v.Freezes() != (memoryHidden() == "") || v.OnTrial != (v.Name == accelKVM) {
			t.Errorf("with %s VMs are frozen: %t, on trial: %t", v.Name, v.Freezes(), v.OnTrial)
		}
	}
	for what, other := range map[string]QEMU{
		"another QEMU":  {Path: "/q", Version: q.Version, Accels: q.Accels, key: "/q 2", cacheDir: cache},
		"another cache": {Path: "/q", Version: q.Version, Accels: q.Accels, key: "/q 1"},
	} {
		if v := other.Accelerator(t.Context()); v.Cached {
			t.Errorf("%s: %+v", what, v)
		}
	}
	without := QEMU{Path: "/q", Accels: []string{"tcg"}}
	if v := without.Accelerator(t.Context()); v.Name != accelTCG || !strings.Contains(v.Reason, "without KVM") {
		t.Errorf("%+v", v)
	}
}

// TestBlame: a no is for a KVM that is slow for the time that it had, whoever else wants
// the processor.
func TestBlame(t *testing.T) {
	for name, tt := range map[string]struct {
		instructions uint64
		took, cpu    time.Duration
		slow         bool
	}{
		"software":                     {45_000, 25 * time.Millisecond, 25 * time.Millisecond, true},
		"software on a busy host":      {45_000, time.Second, 25 * time.Millisecond, true},
		"software, the whole time":     {450_000, 250 * time.Millisecond, 250 * time.Millisecond, true},
		"nothing at all":               {0, 25 * time.Millisecond, 25 * time.Millisecond, true},
		"emulated hardware":            {1_600_000, 25 * time.Millisecond, 25 * time.Millisecond, false},
		"emulated hardware, busy host": {300_000, time.Second, 25 * time.Millisecond, false},
		"hardware without a processor": {0, 3 * time.Second, 100 * time.Microsecond, false},
		"too little to tell":           {0, 3 * time.Second, kvmEnough - 1, false},
	} {
		v := blame(tt.instructions, tt.took, tt.cpu)
		if v.Works || v.final != tt.slow || v.Reason == "" || v.Hint == "" || (v.Rate > 0) != (tt.slow && tt.instructions > 0) {
			t.Errorf("%s: %+v", name, v)
		}
	}
	// What hardware may take at its slowest ends a run that is not through.
	if v := blame(2*kvmSpins-1, kvmWhole, kvmWhole); !v.final {
		t.Errorf("at the end of the budget: %+v", v)
	}
}

// TestTwice: a no that one run says and the other does not is not kept.
func TestTwice(t *testing.T) {
	yes, no, busy := hostVerdict{Works: true, final: true}, hostVerdict{Reason: "no", final: true}, hostVerdict{Reason: "busy"}
	for _, tt := range []struct {
		says        []hostVerdict
		works, kept bool
	}{
		{[]hostVerdict{yes}, true, true},
		{[]hostVerdict{no, yes}, true, true},
		{[]hostVerdict{busy, yes}, true, true},
		{[]hostVerdict{no, no}, false, true},
		{[]hostVerdict{busy, no}, false, false},
		{[]hostVerdict{no, busy}, false, false},
		{[]hostVerdict{busy, busy}, false, false},
	} {
		var budgets []time.Duration
		v := twice(func(budget time.Duration) hostVerdict {
			budgets = append(budgets, budget)
			return tt.says[len(budgets)-1]
		})
		if v.Works != tt.works || v.final != tt.kept || len(budgets) != len(tt.says) {
			t.Errorf("%+v: %+v after %v", tt.says, v, budgets)
		}
	}
}

// TestRefusalAges: a no counts for an hour, and for none who asks to try again; a yes
// until the host boots.
func TestRefusalAges(t *testing.T) {
	dev, why := openKVM("/dev/kvm")
	if dev == nil {
		t.Skip(why.Reason)
	}
	defer dev.Close()
	q := &QEMU{Path: "/q", Version: Version{7, 2, 0}, Accels: []string{"kvm", "tcg"}, key: "/q 1", cacheDir: t.TempDir()}
	keep := func(works bool, age time.Duration) {
		v := hostVerdict{Works: works, Tested: time.Now().Add(-age)}
		if !works {
			v.Reason = "kept"
		}
		storeCached(q.cacheDir, "accel.json", kvmKey(dev, q), v)
	}
	for _, tt := range []struct {
		works    bool
		age      time.Duration
		ask      func(context.Context) hypervisor.Verdict
		believed bool
	}{
		{false, time.Minute, q.Accelerator, true},
		{false, hypervisor.RefusalAge + time.Minute, q.Accelerator, false},
		{false, -time.Hour, q.Accelerator, false}, // the clock was set back
		{false, time.Minute, q.TryAgain, false},
		{true, 24 * time.Hour, q.Accelerator, true},
		{true, 24 * time.Hour, q.TryAgain, true},
	} {
		keep(tt.works, tt.age)
		if v := tt.ask(t.Context()); v.Cached != tt.believed || v.Tested.IsZero() {
			t.Errorf("works %t, %s old: %+v", tt.works, tt.age, v)
		}
	}
}

// TestKVMUnderLoad: whoever else wants the processors, a verdict is the one of a host
// with nothing to do, or says that the host was busy.
func TestKVMUnderLoad(t *testing.T) {
	dev, why := openKVM("/dev/kvm")
	if dev == nil {
		t.Skip(why.Reason)
	}
	defer dev.Close()
	quiet := testKVM(t.Context(), dev)
	for range 4 * runtime.NumCPU() {
		busy := exec.CommandContext(t.Context(), "sh", "-c", "while :; do :; done")
		if err := busy.Start(); err != nil {
			t.Fatal(err)
		}
		defer func() { _ = busy.Process.Kill(); _ = busy.Wait() }()
	}
	runs := 5
	if testing.Short() {
		runs = 1
	}
	for range runs {
		began := time.Now()
		v := testKVM(t.Context(), dev)
		t.Logf("%s works=%t final=%t %s", time.Since(began).Round(time.Millisecond), v.Works, v.final, v.Reason)
		if v.final && quiet.final && v.Works != quiet.Works {
			t.Errorf("%+v, was %+v", v, quiet)
		}
		if quiet.Works && !v.Works {
			t.Errorf("KVM works, and is said not to: %+v", v)
		}
	}
}

// TestKVMCancelled: whoever no longer waits is not kept, and a test that was
// broken off says nothing that it has not seen.
func TestKVMCancelled(t *testing.T) {
	dev, why := openKVM("/dev/kvm")
	if dev == nil {
		t.Skip(why.Reason)
	}
	defer dev.Close()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	began := time.Now()
	v := testKVM(ctx, dev)
	if took := time.Since(began); took > time.Second {
		t.Errorf("%s: %+v", took, v)
	}
	if whole := testKVM(t.Context(), dev); v.final && whole.final && whole.Works != v.Works {
		t.Errorf("broken off: %+v, to its end: %+v", v, whole)
	}
}

// TestKVMInstructions leaves out the loop that shows the speed, so that an
// emulated kernel comes to the instructions that show what is missing.
func TestKVMInstructions(t *testing.T) {
	dev, why := openKVM("/dev/kvm")
	if dev == nil {
		t.Skip(why.Reason)
	}
	defer dev.Close()
	g, err := newGuestCPU(int(dev.Fd()), 1)
	if err != nil {
		t.Skip(err)
	}
	v := g.try(t.Context(), kvmWhole)
	t.Logf("%+v", v)
	if whole := testKVM(t.Context(), dev); whole.Works && !v.Works && v.final {
		t.Errorf("without the loop: %+v", v)
	}
	if !v.Works && v.Reason == "" {
		t.Error("no reason")
	}
}
