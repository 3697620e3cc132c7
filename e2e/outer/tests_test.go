package main

import (
	"slices"
	"testing"
)

// A test that was skipped, or is there no more, is missed as one that failed.
func TestMissed(t *testing.T) {
	var r results
	r.read([]string{
		"=== RUN   TestRun",
		"--- PASS: TestRun (1.00s)",
		"    --- FAIL: TestStop/cold (0.10s)",
		"--- FAIL: TestStop (0.20s)",
		"    idle_test.go:15: machines are not frozen here",
		"--- SKIP: TestIdle (0.00s)",
	})
	if err := r.missed([]string{"Run"}); err != nil {
		t.Error(err)
	}
	if err := r.missed([]string{"Run", "Stop", "Idle", "Gone"}); err == nil || err.Error() != "not passed: TestStop TestIdle TestGone" {
		t.Errorf("missed: %v", err)
	}
	if want := []string{"TestIdle: idle_test.go:15: machines are not frozen here"}; !slices.Equal(r.skipped, want) {
		t.Errorf("skipped: %q", r.skipped)
	}
	if want := []string{"TestStop/cold", "TestStop"}; !slices.Equal(r.failed, want) || r.passed != 1 {
		t.Errorf("failed: %q, passed: %d", r.failed, r.passed)
	}
}
