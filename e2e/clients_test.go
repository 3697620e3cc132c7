package e2e

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// A client is one that people have, unmodified, with an environment of its own, in
// a directory of its own.
type client struct {
	dir string   // where its commands run
	env []string // besides the tests' environment
}

// pluginsDir is where Debian's docker compose and docker buildx are.
var pluginsDir = sync.OnceValues(func() (string, error) {
	out, err := try(5*time.Minute, filepath.Join(root, "scripts", "unpack.sh"), "forky", "clients")
	lines := strings.Split(strings.TrimSpace(out), "\n")
	return lines[len(lines)-1], err
})

// plugins returns the docker client with its plugins, which the other tests' has
// not, for the shared machine.
func plugins(t *testing.T) client {
	t.Helper()
	from, err := pluginsDir()
	if err != nil {
		t.Fatal(err)
	}
	config := copyOfConfig(t)
	if err := os.Mkdir(filepath.Join(config, "cli-plugins"), 0o700); err != nil {
		t.Fatal(err)
	}
	for _, plugin := range []string{"docker-compose", "docker-buildx"} {
		if err := os.Symlink(filepath.Join(from, plugin), filepath.Join(config, "cli-plugins", plugin)); err != nil {
			t.Fatal(err)
		}
	}
	return client{dir: t.TempDir(), env: []string{"DOCKER_CONFIG=" + config, "DOCKER_CONTEXT=hyve-" + shared}}
}

// copyOfConfig returns a DOCKER_CONFIG in which a client may write, with hyve's contexts.
func copyOfConfig(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.CopyFS(filepath.Join(dir, "contexts"), os.DirFS(filepath.Join(config, "contexts"))); err != nil {
		t.Fatal(err)
	}
	return dir
}

// envClient returns a client that knows the shared machine from hyve env.
func envClient(t *testing.T) client {
	t.Helper()
	script := `eval "$(` + binary + ` env --shell bash ` + shared + `)"; env | grep ^DOCKER_`
	return client{dir: t.TempDir(), env: append(strings.Fields(stdout(t, "sh", "-c", script)), "DOCKER_CONFIG="+t.TempDir())}
}

// socketClient returns a client that knows the shared machine by its socket alone.
func socketClient(t *testing.T) client {
	t.Helper()
	return client{dir: t.TempDir(), env: []string{"DOCKER_CONFIG=" + t.TempDir(),
		"DOCKER_HOST=unix://" + filepath.Join(home, "machines", shared, "run", "docker.sock")}}
}

func (c client) command(ctx context.Context, name string, args ...string) *exec.Cmd {
	cmd := command(ctx, name, args...)
	cmd.Dir, cmd.Env = c.dir, append(cmd.Env, c.env...)
	return cmd
}

// run runs a command to its end, which has to be a good one, and returns what it
// printed on both.
func (c client) run(t *testing.T, name string, args ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), scaled(5*time.Minute))
	defer cancel()
	began := time.Now()
	defer func() {
		t.Logf("%.1fs %s %s", time.Since(began).Seconds(), filepath.Base(name), strings.Join(args, " "))
	}()
	out, err := c.command(ctx, name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", filepath.Base(name), strings.Join(args, " "), err, out)
	}
	return string(out)
}

// A process is a client's command that goes on beside the test.
type process struct {
	cmd  *exec.Cmd
	done chan struct{}

	mu  sync.Mutex
	out bytes.Buffer // guarded by mu
}

// start starts a command, which is killed when the test is over.
func (c client) start(t *testing.T, name string, args ...string) *process {
	t.Helper()
	p := &process{cmd: c.command(context.Background(), name, args...), done: make(chan struct{})}
	p.cmd.Stdout, p.cmd.Stderr = p, p
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(p.done)
		p.cmd.Wait()
	}()
	t.Cleanup(func() {
		p.kill()
		if t.Failed() {
			t.Logf("%s printed:\n%s", strings.Join(p.cmd.Args, " "), p)
		}
	})
	return p
}

func (p *process) Write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.out.Write(b)
}

func (p *process) String() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.out.String()
}

// prints waits until the command has printed text.
func (p *process) prints(t *testing.T, text string) {
	t.Helper()
	eventually(t, p.cmd.Args[0]+" prints "+text, func() bool {
		select {
		case <-p.done:
			if !strings.Contains(p.String(), text) {
				t.Fatalf("%s ended without %q", strings.Join(p.cmd.Args, " "), text)
			}
		default:
		}
		return strings.Contains(p.String(), text)
	})
}

// kill ends the command as kill -9 does.
func (p *process) kill() {
	p.cmd.Process.Kill()
	<-p.done
}

// writeFiles makes files of their contents, by their paths in dir.
func writeFiles(t *testing.T, dir string, files map[string]string) {
	t.Helper()
	for path, content := range files {
		path = filepath.Join(dir, path)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}
