package qemu

import (
	"math"
	"sync/atomic"
	"testing"
)

// The rate is the same each time, whatever else the host does.
func TestTickRate(t *testing.T) {
	first := tickRate()
	if first == 0 {
		t.Fatal("it cannot be found out")
	}
	var over atomic.Bool
	defer over.Store(true)
	for range 8 {
		go func() {
			for !over.Load() { // keep the processors busy
			}
		}()
	}
	for range 5 {
		if again := tickRate(); math.Abs(float64(again-first)) > float64(first)/1000 {
			t.Errorf("%d kHz, then %d", first, again)
		}
	}
}

func TestWithTickRate(t *testing.T) {
	for _, test := range []struct {
		cmdline string
		rate    int
		want    string
	}{
		{"quiet", 2_596_136, "quiet tsc_early_khz=2596136"},
		{"quiet", 0, "quiet"}, // nobody knows
		{"", 2_596_136, ""},   // a kernel without Linux's parameters
	} {
		if got := withTickRate(test.cmdline, test.rate); got != test.want {
			t.Errorf("%q at %d kHz: %q", test.cmdline, test.rate, got)
		}
	}
}
