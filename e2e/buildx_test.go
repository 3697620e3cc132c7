package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// stages is a build of two stages, of which the second has what the first made.
var stages = map[string]string{
	"Dockerfile": `FROM busybox AS build
COPY word /word
RUN --mount=type=cache,target=/kept tr a-z A-Z < /word > /made
FROM busybox AS image
COPY --from=build /made /made
CMD ["cat", "/made"]
FROM scratch AS files
COPY --from=build /made /made
`,
	"word": "plop\n",
}

func TestBuildx(t *testing.T) {
	c := plugins(t)
	t.Log(strings.TrimSpace(c.run(t, docker, "buildx", "version")))
	// Docker's BuildKit takes no mirror that is plain HTTP.
	c.run(t, docker, "pull", "-q", "busybox")
	writeFiles(t, c.dir, stages)
	t.Cleanup(func() { c.command(context.Background(), docker, "rmi", "-f", "e2e-buildx").Run() })
	build := []string{"buildx", "build", "--progress", "plain", "--load", "-t", "e2e-buildx", "--target", "image", "."}
	checkBuilds(t, c, build)
	if out := c.run(t, docker, "run", "--rm", "e2e-buildx"); out != "PLOP\n" {
		t.Errorf("the image prints %q", out)
	}
	c.run(t, docker, "buildx", "build", "--progress", "plain", "--output", "type=local,dest=out", "--target", "files", ".")
	if made, err := os.ReadFile(filepath.Join(c.dir, "out", "made")); string(made) != "PLOP\n" {
		t.Errorf("the build's file on the host is %q, %v", made, err)
	}
}

// checkBuilds builds twice, the second time with nothing to do.
func checkBuilds(t *testing.T, c client, args []string) {
	t.Helper()
	const step = "[build 3/3] RUN --mount=type=cache,target=/kept tr"
	if out := c.run(t, docker, args...); !strings.Contains(out, step) {
		t.Errorf("the first build did not run %s:\n%s", step, out)
	}
	out := c.run(t, docker, args...)
	_, of, ok := strings.Cut(out, step)
	if lines := strings.SplitN(of, "\n", 3); !ok || !strings.HasSuffix(lines[1], " CACHED") {
		t.Errorf("the second build ran %s again:\n%s", step, out)
	}
}

// buildkit is the newest that buildx 0.29 knows.
const buildkit = "github.com/moby/buildkit@v0.25.2"

// TestBuilderInAContainer has buildx make a builder of its own, a container with
// BuildKit, as people have it for caches and for several platforms.
func TestBuilderInAContainer(t *testing.T) {
	takesLong(t) // BuildKit is to be compiled
	c := plugins(t)
	// Nobody is there to pull it from, so that buildx takes what the engine has.
	const image = "127.0.0.1:1/e2e-buildkit"
	makeBuildKitImage(t, c, image)
	mirror := strings.TrimPrefix(registry, "http://")
	writeFiles(t, c.dir, stages)
	writeFiles(t, c.dir, map[string]string{"buildkitd.toml": fmt.Sprintf(
		"[registry.\"docker.io\"]\n  mirrors = [%q]\n[registry.%q]\n  http = true\n", mirror, mirror)})
	t.Cleanup(func() {
		c.command(context.Background(), docker, "buildx", "rm", "-f", "e2e-builder").Run()
		c.command(context.Background(), docker, "rmi", "-f", image, "e2e-buildx").Run()
	})
	c.run(t, docker, "buildx", "create", "--name", "e2e-builder", "--driver", "docker-container", "--driver-opt", "image="+image,
		"--buildkitd-config", "buildkitd.toml", "--bootstrap")
	checkBuilds(t, c, []string{"buildx", "build", "--builder", "e2e-builder", "--progress", "plain", "--load", "-t", "e2e-buildx", "--target", "image", "."})
	if out := c.run(t, docker, "run", "--rm", "e2e-buildx"); out != "PLOP\n" {
		t.Errorf("the image prints %q", out)
	}
}

// makeBuildKitImage builds BuildKit and puts it into an image of the machine, with
// busybox and Debian's runc.
func makeBuildKitImage(t *testing.T, c client, image string) {
	t.Helper()
	out, err := exec.Command("go", "mod", "download", "-json", buildkit).Output()
	var module struct{ Dir, Error string }
	if json.Unmarshal(out, &module); module.Dir == "" {
		t.Fatalf("downloading %s: %v %s", buildkit, err, module.Error)
	}
	cache := filepath.Join(home, "cache", "buildkit")
	build := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w", "-o", cache+"/", "./cmd/buildkitd", "./cmd/buildctl")
	build.Dir, build.Env = module.Dir, append(os.Environ(), "CGO_ENABLED=0")
	if err := os.MkdirAll(cache, 0o755); err != nil {
		t.Fatal(err)
	}
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("building %s: %v\n%s", buildkit, err, out)
	}
	debian := filepath.Join(root, ".deps", "forky-clients", "root")
	dir := t.TempDir()
	for from, to := range map[string]string{
		filepath.Join(cache, "buildkitd"):                                 "bin/buildkitd",
		filepath.Join(cache, "buildctl"):                                  "bin/buildctl",
		filepath.Join(debian, "usr/sbin/runc"):                            "bin/runc",
		filepath.Join(debian, "usr/lib64/ld-linux-x86-64.so.2"):           "lib64/ld-linux-x86-64.so.2",
		filepath.Join(debian, "usr/lib/x86_64-linux-gnu/libc.so.6"):       "lib/x86_64-linux-gnu/libc.so.6",
		filepath.Join(debian, "usr/lib/x86_64-linux-gnu/libseccomp.so.2"): "lib/x86_64-linux-gnu/libseccomp.so.2",
	} {
		stdout(t, "install", "-D", from, filepath.Join(dir, "root", to))
	}
	writeFiles(t, dir, map[string]string{"Dockerfile": "FROM busybox\nCOPY root /\nVOLUME /var/lib/buildkit\nENTRYPOINT [\"buildkitd\"]\n"})
	c.run(t, docker, "pull", "-q", "busybox")
	c.run(t, docker, "build", "-q", "-t", image, dir)
}
