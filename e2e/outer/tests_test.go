package main

import (
	"errors"
	"slices"
	"strings"
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

// A step that must fail is one that does, for the right reason.
func TestFailed(t *testing.T) {
	s := step{fails: "it is not kvm"}
	said, status := []string{"shared machine", "e2e: it is not kvm that would run machines"}, &statusError{"1"}
	if err := s.failed(said, status); err != nil {
		t.Error(err)
	}
	for _, test := range []struct {
		lines []string
		err   error
		want  string
	}{
		{said, nil, "it succeeds"},
		{said[:1], status, "does not say"},
		{said, errors.New("the outer VM ended before its script"), "before its script"},
	} {
		if err := s.failed(test.lines, test.err); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%v, want %q", err, test.want)
		}
	}
}

// The long run has all of the short one, and a power cut between its first boots.
func TestSteps(t *testing.T) {
	names := func(o outer) (all []string) {
		for _, s := range o.steps() {
			all = append(all, s.name)
		}
		return all
	}
	short, long := names(outer{}), names(outer{long: true})
	if len(short) != 3 || !slices.Equal(long[:3], short) || !slices.Contains(long, "after the power cut") {
		t.Errorf("%q, %q", short, long)
	}
	if one := names(outer{tests: "TestRun$"}); !slices.Equal(one, []string{"tests"}) {
		t.Errorf("of one test: %q", one)
	}
	if parts := names(outer{tests: "TestHostReboots$"}); !slices.Equal(parts, long[3:]) {
		t.Errorf("of the reboots: %q", parts)
	}
	if !strings.Contains((&outer{inner: "bookworm", root: "/checkout"}).steps()[0].script, "PATH=/checkout/.deps/bookworm/bin:") {
		t.Error("Debian 12's QEMU is not used")
	}
}
