//go:build linux

package engine

import "testing"

// The rules are dockerd's at its start.
func TestContainersThatRestart(t *testing.T) {
	for _, test := range []struct {
		policy  string
		bound   int
		running bool
		code    int
		due     bool
		want    bool
	}{
		{policy: "no", running: true, due: true},
		{policy: "", running: true, due: true},
		{policy: "always", want: true},
		{policy: "unless-stopped", running: true, due: true, want: true},
		{policy: "unless-stopped", due: true, want: true},
		{policy: "unless-stopped", code: 1},
		{policy: "on-failure", running: true, due: true, want: true},
		{policy: "on-failure", code: 0},
		{policy: "on-failure", code: 3, want: true},
		{policy: "on-failure", code: 3, bound: 3, want: true},
		{policy: "on-failure", code: 3, bound: 2},
	} {
		c := container{RestartCount: 2, due: test.due}
		c.State.Running, c.State.ExitCode = test.running, test.code
		c.HostConfig.RestartPolicy.Name, c.HostConfig.RestartPolicy.MaximumRetryCount = test.policy, test.bound
		if got := c.restarts(); got != test.want {
			t.Errorf("%+v: %t", test, got)
		}
	}
}
