package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
)

// goSDK builds the tests with Docker's Go client and testcontainers for Go.
var goSDK = sync.OnceValues(func() (path string, err error) {
	path = filepath.Join(home, "cache", "sdk.test")
	build := exec.Command("go", "test", "-c", "-o", path, ".")
	build.Dir, build.Env = filepath.Join(root, "e2e", "testdata", "sdk"), append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("building the tests with Docker's Go client: %w\n%s", err, out)
	}
	return path, nil
})

// nodeSDK installs Node.js, dockerode and testcontainers for Node and returns node
// and the directory with the scripts that use them.
var nodeSDK = sync.OnceValues(func() (dir string, err error) {
	dir = filepath.Join(home, "cache", "node")
	from := os.DirFS(filepath.Join(root, "e2e", "testdata", "node"))
	lock, err := os.ReadFile(filepath.Join(root, "e2e", "testdata", "node", "package-lock.json"))
	if err != nil {
		return "", err
	}
	installed, _ := os.ReadFile(filepath.Join(dir, "installed"))
	if string(installed) != string(lock) {
		if err := os.RemoveAll(dir); err != nil {
			return "", err
		}
		if err := os.CopyFS(dir, from); err != nil {
			return "", err
		}
		npm := exec.Command("npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund")
		npm.Dir = dir
		if out, err := npm.CombinedOutput(); err != nil {
			return "", fmt.Errorf("npm ci: %w\n%s", err, out)
		}
		if err := os.WriteFile(filepath.Join(dir, "installed"), lock, 0o644); err != nil {
			return "", err
		}
	}
	return dir, nil
})

// inGo runs one of the tests with Docker's Go client.
func inGo(t *testing.T, test string) []string {
	t.Helper()
	path, err := goSDK()
	if err != nil {
		t.Fatal(err)
	}
	return []string{path, "-test.count=1", "-test.v", "-test.run", "^" + test + "$"}
}

// inNode runs one of the scripts with the npm packages.
func inNode(t *testing.T, script string) []string {
	t.Helper()
	if _, err := exec.LookPath("npm"); err != nil {
		t.Skip("there is no npm: scripts/deps.sh tests installs it as root")
	}
	dir, err := nodeSDK()
	if err != nil {
		t.Fatal(err)
	}
	from, err := os.ReadFile(filepath.Join(root, "e2e", "testdata", "node", script))
	if err != nil {
		t.Fatal(err)
	}
	writeFiles(t, dir, map[string]string{script: string(from)})
	return []string{filepath.Join(dir, "node_modules", ".bin", "node"), filepath.Join(dir, script)}
}

// TestGoClient is Docker's own client with the oldest and the newest API that the
// engine takes.
func TestGoClient(t *testing.T) { envClient(t).passes(t, inGo(t, "TestVersions")) }

// TestDockerode takes the machine's socket; by TLS it is what testcontainers use.
func TestDockerode(t *testing.T) { socketClient(t).passes(t, inNode(t, "dockerode.js")) }

// passes runs a program of tests to its end.
func (c client) passes(t *testing.T, argv []string) {
	t.Helper()
	t.Log(strings.TrimSpace(c.run(t, argv[0], argv[1:]...)))
}

// TestTestcontainers runs tests that publish a port, by what hyve env says and by the
// machine's socket. Those by the first are killed, and the reaper cleans up after them.
func TestTestcontainers(t *testing.T) {
	buildReaper(t)
	for name, program := range map[string]func(*testing.T) []string{
		"Go":   func(t *testing.T) []string { return inGo(t, "TestContainers") },
		"Node": func(t *testing.T) []string { return inNode(t, "testcontainers.js") },
	} {
		t.Run(name, func(t *testing.T) {
			c := envClient(t)
			c.env = append(c.env, "RYUK_RECONNECTION_TIMEOUT=1s", "TESTCONTAINERS_RYUK_RECONNECTION_TIMEOUT=1s")
			c.isReaped(t, program(t))
		})
		t.Run(name+" by socket", func(t *testing.T) {
			c := socketClient(t)
			c.env = append(c.env, "TESTCONTAINERS_DOCKER_SOCKET_OVERRIDE=/var/run/docker.sock",
				// In a container, as some run these tests, testcontainers expect to see the engine's networks.
				"TESTCONTAINERS_HOST_OVERRIDE=localhost")
			c.passes(t, program(t))
		})
	}
}

// buildReaper makes the image that testcontainers clean up with. What stands in it for
// Ryuk, which no registry here has, speaks its protocol and uses the engine as it does.
func buildReaper(t *testing.T) {
	t.Helper()
	dir := t.TempDir()
	writeFiles(t, dir, map[string]string{"Dockerfile": "FROM scratch\nCOPY reaper /bin/ryuk\nENTRYPOINT [\"/bin/ryuk\"]\nEXPOSE 8080\n"})
	if err := os.Rename(buildForGuest(t, "reaper"), filepath.Join(dir, "reaper")); err != nil {
		t.Fatal(err)
	}
	const image = "testcontainers/ryuk:0.14.0" // as both ask for
	t.Cleanup(func() {
		ids, _ := try(limit, docker, "--context", "hyve-"+shared, "ps", "-aq", "--filter", "label=org.testcontainers=true")
		for id := range strings.FieldsSeq(ids) {
			try(limit, docker, "--context", "hyve-"+shared, "rm", "-f", id)
		}
		try(limit, docker, "--context", "hyve-"+shared, "rmi", "-f", image)
	})
	dock(t, shared, "build", "-q", "-t", image, dir)
}

// isReaped kills a program that has started a container, which the reaper then removes.
func (c client) isReaped(t *testing.T, argv []string) {
	t.Helper()
	c.env = append(c.env, "E2E_LEAVE=1")
	p := c.start(t, argv[0], argv[1:]...)
	var id string
	eventually(t, "the program's container", func() bool {
		m := regexp.MustCompile(`(?m)^container ([0-9a-f]{64})$`).FindStringSubmatch(p.String())
		if m != nil {
			id = m[1]
		}
		return m != nil
	})
	there := func() bool { return strings.Contains(dock(t, shared, "ps", "-aq", "--no-trunc"), id) }
	if !there() {
		t.Fatalf("the container %s is not there", id)
	}
	p.kill()
	eventually(t, "the reaper removes the container of a program that was killed", func() bool { return !there() })
}
