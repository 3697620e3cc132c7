package e2e

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestCompose is a day with a project: up, look, change, down.
func TestCompose(t *testing.T) {
	c := plugins(t)
	if err := os.CopyFS(c.dir, os.DirFS(filepath.Join("testdata", "compose"))); err != nil {
		t.Fatal(err)
	}
	compose := func(args ...string) string {
		t.Helper()
		return c.run(t, docker, append([]string{"compose"}, args...)...)
	}
	t.Log(strings.TrimSpace(compose("version")))
	t.Cleanup(func() {
		c.command(context.Background(), docker, "compose", "down", "-v", "-t", "0", "--rmi", "local").Run()
	})

	compose("up", "--build", "--detach", "--quiet-pull")
	if text := get(t, "127.0.0.1:18090"); text != "first" {
		t.Errorf("web serves %q", text)
	}
	if out := compose("logs", "--no-log-prefix", "web"); !strings.Contains(out, "db was born at 1") {
		t.Errorf("web was started before db was healthy: %s", out)
	}
	if out := compose("ps", "--format", "{{.Service}} {{.Health}}"); !strings.Contains(out, "db healthy") {
		t.Errorf("compose ps says %q", out)
	}

	logs := c.start(t, docker, "compose", "logs", "--follow", "--tail", "0", "web")
	// The server logs each answer; until the client follows, it does not show.
	eventually(t, "a request in the followed logs", func() bool {
		get(t, "127.0.0.1:18090")
		return strings.Contains(logs.String(), "response:200")
	})

	watch := c.start(t, docker, "compose", "watch", "--no-up")
	watch.prints(t, "Watch enabled")
	writeFiles(t, c.dir, map[string]string{"web/srv/index.html": "second\n"})
	eventually(t, "the changed file in the running container", func() bool { return get(t, "127.0.0.1:18090") == "second" })
	watch.kill()

	volumes := func() string {
		return c.run(t, docker, "volume", "ls", "-q", "--filter", "label=com.docker.compose.project=e2e-compose")
	}
	if out := volumes(); out != "e2e-compose_data\ne2e-compose_kept\n" {
		t.Errorf("the project's volumes are %q", out)
	}
	compose("down", "--volumes")
	if out := volumes(); out != "" {
		t.Errorf("down -v left %q", out)
	}
	if out := c.run(t, docker, "ps", "-aq", "--filter", "label=com.docker.compose.project=e2e-compose"); out != "" {
		t.Errorf("down left containers: %s", out)
	}
	eventually(t, "the port shuts with the project", func() bool { return !connects("127.0.0.1:18090") })
}
