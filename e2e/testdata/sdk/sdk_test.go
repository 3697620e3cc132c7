// Package sdk tests with Docker's own Go client and with testcontainers. It is a
// module of its own, and hyve has nothing of what it needs. The end-to-end tests run
// it with an environment that says where the engine is.
package sdk

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/image"
	"github.com/docker/docker/api/types/network"
	"github.com/docker/docker/client"
	"github.com/docker/docker/pkg/stdcopy"
	"github.com/testcontainers/testcontainers-go"
	"github.com/testcontainers/testcontainers-go/wait"
)

// TestVersions does the same with the oldest API that the engine takes and with the
// newest one.
func TestVersions(t *testing.T) {
	c := connect(t, client.WithAPIVersionNegotiation())
	engine, err := c.ServerVersion(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if engine.MinAPIVersion == "" || engine.MinAPIVersion == engine.APIVersion {
		t.Fatalf("the engine takes API %q to %q", engine.MinAPIVersion, engine.APIVersion)
	}
	for _, version := range []string{engine.MinAPIVersion, engine.APIVersion} {
		t.Run(version, func(t *testing.T) { useEngine(t, connect(t, client.WithVersion(version))) })
	}
}

func connect(t *testing.T, options ...client.Opt) *client.Client {
	t.Helper()
	c, err := client.NewClientWithOpts(append([]client.Opt{client.FromEnv}, options...)...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// useEngine pulls, makes a network, runs, attaches, waits, reads logs, and removes.
func useEngine(t *testing.T, c *client.Client) {
	ctx := t.Context()
	pull, err := c.ImagePull(ctx, "busybox", image.PullOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if out, err := io.ReadAll(pull); err != nil || !strings.Contains(string(out), "Status: ") {
		t.Errorf("the pull says %s, %v", out, err)
	}
	net, err := c.NetworkCreate(ctx, "e2e-sdk", network.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer c.NetworkRemove(context.Background(), net.ID)
	made, err := c.ContainerCreate(ctx, &container.Config{Image: "busybox", Cmd: []string{"sh", "-c", "read word; echo $word; echo err >&2; exit 3"},
		OpenStdin: true, StdinOnce: true, AttachStdin: true, AttachStdout: true},
		&container.HostConfig{NetworkMode: "e2e-sdk"}, nil, nil, "")
	if err != nil {
		t.Fatal(err)
	}
	defer c.ContainerRemove(context.Background(), made.ID, container.RemoveOptions{Force: true})
	attached, err := c.ContainerAttach(ctx, made.ID, container.AttachOptions{Stream: true, Stdin: true, Stdout: true})
	if err != nil {
		t.Fatal(err)
	}
	defer attached.Close()
	if err := c.ContainerStart(ctx, made.ID, container.StartOptions{}); err != nil {
		t.Fatal(err)
	}
	fmt.Fprintln(attached.Conn, "plop!")
	if err := attached.CloseWrite(); err != nil {
		t.Error(err)
	}
	var out, errText bytes.Buffer
	if _, err := stdcopy.StdCopy(&out, io.Discard, attached.Reader); err != nil || out.String() != "plop!\n" {
		t.Errorf("attach gives %q, %v", out.String(), err)
	}
	ended, failed := c.ContainerWait(ctx, made.ID, container.WaitConditionNotRunning)
	select {
	case end := <-ended:
		if end.StatusCode != 3 {
			t.Errorf("exit status %d, want 3", end.StatusCode)
		}
	case err := <-failed:
		t.Errorf("waiting: %v", err)
	}
	logs, err := c.ContainerLogs(ctx, made.ID, container.LogsOptions{ShowStdout: true, ShowStderr: true, Follow: true})
	if err != nil {
		t.Fatal(err)
	}
	out.Reset()
	if _, err := stdcopy.StdCopy(&out, &errText, logs); err != nil || out.String() != "plop!\n" || errText.String() != "err\n" {
		t.Errorf("the logs are %q and %q, %v", out.String(), errText.String(), err)
	}
}

// TestContainers is a test as people write them. With E2E_LEAVE it never comes to its
// end, and its container is left to the reaper.
func TestContainers(t *testing.T) {
	ctx := t.Context()
	web, err := testcontainers.Run(ctx, "busybox",
		testcontainers.WithExposedPorts("80/tcp"),
		testcontainers.WithFiles(testcontainers.ContainerFile{Reader: strings.NewReader("served"), ContainerFilePath: "/www/index.html", FileMode: 0o644}),
		testcontainers.WithCmd("httpd", "-f", "-p", "80", "-h", "/www"),
		testcontainers.WithWaitStrategyAndDeadline(2*time.Minute, wait.ForHTTP("/").WithPort("80/tcp")))
	testcontainers.CleanupContainer(t, web, testcontainers.StopTimeout(0))
	if err != nil {
		t.Fatal(err)
	}
	address, err := web.PortEndpoint(ctx, "80/tcp", "http")
	if err != nil {
		t.Fatal(err)
	}
	response, err := http.Get(address)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	if body, err := io.ReadAll(response.Body); string(body) != "served" {
		t.Errorf("%s serves %q, %v", address, body, err)
	}
	code, out, err := web.Exec(ctx, []string{"sh", "-c", "echo inside; exit 4"})
	if err != nil {
		t.Fatal(err)
	}
	if text, err := io.ReadAll(out); code != 4 || !strings.Contains(string(text), "inside") {
		t.Errorf("exec ends with %d and prints %q, %v", code, text, err)
	}
	if os.Getenv("E2E_LEAVE") != "" {
		fmt.Println("container", web.GetContainerID())
		select {}
	}
}
