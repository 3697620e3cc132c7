package cli

import (
	"strings"
	"testing"

	"github.com/hyve-vm/hyve/internal/machine"
)

// What hyve use does has no effect on a shell with DOCKER_HOST.
func TestUseOverruled(t *testing.T) {
	home := machine.Home(t.TempDir())
	makeMachine(t, home, "m")
	for host, want := range map[string]string{"": "", "tcp://x": "docker will use machine \"m\" when DOCKER_HOST is not set any more\n"} {
		var said strings.Builder
		root := newApp(map[string]string{"HYVE_HOME": string(home), "DOCKER_CONFIG": t.TempDir(), "DOCKER_HOST": host}, nil, &said).root()
		root.SetArgs([]string{"use", "m"})
		if err := root.ExecuteContext(t.Context()); err != nil || said.String() != want {
			t.Errorf("with DOCKER_HOST=%s: %v, said %q", host, err, said.String())
		}
	}
}
