package supervisor

import (
	"os"
	"runtime"
	"testing"
	"time"
)

func TestCPUTime(t *testing.T) {
	for stat, want := range map[string]time.Duration{
		"7 (qemu) S 1 7 7 0 -1 4194304 9 0 0 0 150 50 0 0 20 0":     2 * time.Second,
		"7 (a) b (c) S 1 7 7 0 -1 4194304 9 0 0 0 1 0 0 0 20 0 1 2": 10 * time.Millisecond,
		"7 (qemu) S 1": -1,
		"":             -1,
		"7 (q) S 1 7 7 0 -1 4 9 0 0 0 x 50 0 0 2": -1,
	} {
		got, err := cpuTime(stat)
		if want < 0 != (err != nil) || err == nil && got != want {
			t.Errorf("cpuTime(%q) = %v, %v", stat, got, err)
		}
	}
}

func TestUsageOf(t *testing.T) {
	block := make([]byte, 64<<20)
	for i := range block {
		block[i] = byte(i)
	}
	u, err := usageOf(os.Getpid())
	if err != nil || u.own < 64<<20 || u.own > 4<<30 || u.cpu < 0 || u.cpu > time.Hour {
		t.Errorf("usageOf(self) = %+v, %v", u, err)
	}
	runtime.KeepAlive(block)
	if _, err := usageOf(1 << 30); err == nil {
		t.Error("a process that is not there uses something")
	}
}
