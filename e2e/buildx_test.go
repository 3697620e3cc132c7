package e2e

import (
	"context"
	"os"
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
