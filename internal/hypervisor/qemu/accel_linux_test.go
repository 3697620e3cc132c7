package qemu

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"
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
	if shortest > 100*time.Millisecond || longest > time.Second {
		t.Errorf("took %s to %s, at most 100 ms when nothing else runs", shortest, longest)
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
		if v.Freezes() != (v.Name == accelTCG && memoryHidden() == "") {
			t.Errorf("with %s VMs are frozen: %t", v.Name, v.Freezes())
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
	v := g.try(t.Context())
	t.Logf("%+v", v)
	if whole := testKVM(t.Context(), dev); whole.Works && !v.Works && v.final {
		t.Errorf("without the loop: %+v", v)
	}
	if !v.Works && v.Reason == "" {
		t.Error("no reason")
	}
}
