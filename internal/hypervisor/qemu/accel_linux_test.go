package qemu

import (
	"context"
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
		runs = 3
	}
	var first hostVerdict
	var longest time.Duration
	for range runs {
		began := time.Now()
		v := testKVM(context.Background(), dev)
		took := time.Since(began)
		longest = max(longest, took)
		t.Logf("%s works=%t final=%t %s", took.Round(10*time.Microsecond), v.Works, v.final, v.Reason)
		if took > 100*time.Millisecond {
			t.Errorf("took %s, at most 100 ms", took)
		}
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
	t.Logf("longest %s", longest)
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
