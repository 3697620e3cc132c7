//go:build linux

package process

import (
	"strings"
	"testing"
)

func TestReaper(t *testing.T) {
	r := New()
	out, err := r.Run(nil, "/bin/sh", "-c", "echo out; echo err >&2")
	if err != nil || out != "out\nerr\n" {
		t.Errorf("run = %q, %v", out, err)
	}
	_, err = r.Run(nil, "/bin/sh", "-c", "echo why; exit 3")
	if err == nil || !strings.Contains(err.Error(), "exited with status 3: why") {
		t.Errorf("a failing command gives %v", err)
	}
	_, status, err := r.Output(nil, "/bin/sh", "-c", "kill -9 $$")
	if err != nil || Describe(status) != "killed by signal 9 (killed)" {
		t.Errorf("a killed command: %v, %v", Describe(status), err)
	}
	if _, err := r.Run(nil, "/no/such"); err == nil {
		t.Error("a missing program is no error")
	}
	// Many at once, some of which die before they are registered.
	done := make(chan error, 50)
	for range cap(done) {
		go func() {
			_, err := r.Run(nil, "/bin/true")
			done <- err
		}()
	}
	for range cap(done) {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
}

func TestReadTail(t *testing.T) {
	if got := readTail(strings.NewReader(strings.Repeat("x", 30<<10)+"end"), 5); got != "xxend" {
		t.Errorf("the last 5 bytes are %q", got)
	}
}
