package qemu

import (
	"math"
	"time"
)

// ticks reads the processor's time stamp counter.
func ticks() uint64

// tickTrial is the time over which it is measured. The host's clock is read to within a
// microsecond, so the rate is right to a ten thousandth.
const tickTrial = 20 * time.Millisecond

// tickRate returns how often the time stamp counter ticks, in thousands a second; 0 if that
// cannot be found out. QEMU's emulated processors count as the host's does. A kernel that
// boots in one would find it out by itself, if nothing else kept the host busy meanwhile.
func tickRate() int {
	at, from := readTicks()
	time.Sleep(tickTrial)
	then, to := readTicks()
	rate := float64(to-from) / float64(then.Sub(at).Microseconds()) * 1000
	if to <= from || rate < 1e5 || rate > 1e7 {
		return 0
	}
	return int(math.Round(rate))
}

// readTicks returns what the counter shows and when, of several times the one whose moment
// is the surest: a process may lose its processor at any step.
func readTicks() (at time.Time, count uint64) {
	least := time.Duration(math.MaxInt64)
	for range 10 {
		before := time.Now()
		n := ticks()
		if took := time.Since(before); took < least {
			least, at, count = took, before.Add(took/2), n
		}
	}
	return at, count
}
