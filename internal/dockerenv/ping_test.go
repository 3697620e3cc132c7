package dockerenv

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// engine answers pings on a new socket with that Server header, status and body.
func engine(t *testing.T, name string, status int, body string) string {
	t.Helper()
	socket := filepath.Join(t.TempDir(), "docker.sock")
	listener, err := net.Listen("unix", socket)
	must(t, err)
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Server", name)
		if r.URL.Path != "/_ping" {
			status = http.StatusNotFound
		}
		w.WriteHeader(status)
		fmt.Fprint(w, body)
	})}
	go server.Serve(listener)
	t.Cleanup(func() { server.Close() })
	return socket
}

func TestEngineAnswers(t *testing.T) {
	for name, want := range map[string]string{
		"Docker/26.1.5+dfsg1 (linux)": "26.1.5+dfsg1",
		"Docker/29.0.0":               "29.0.0",
	} {
		if version, err := Ping(t.Context(), engine(t, name, 200, "OK")); version != want || err != nil {
			t.Errorf("%s: got %q, error %v", name, version, err)
		}
	}
}

func TestEngineErrors(t *testing.T) {
	const docker = "Docker/26.1.5 (linux)"
	for name, test := range map[string]struct {
		server     string
		status     int
		body, want string
	}{
		"its message":   {docker, 500, `{"message":"containerd is gone"}`, "500 Internal Server Error: containerd is gone"},
		"no JSON":       {docker, 502, "bad gateway\n", "502 Bad Gateway: bad gateway"},
		"not an engine": {"nginx", 200, "OK", `not an engine's but of "nginx"`},
	} {
		if version, err := Ping(t.Context(), engine(t, test.server, test.status, test.body)); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: got %q, error %v, want %q", name, version, err, test.want)
		}
	}
	if _, err := Ping(t.Context(), filepath.Join(t.TempDir(), "none")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no socket: %v", err)
	}
}

func TestSilentEngine(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "docker.sock")
	listener, err := net.Listen("unix", socket)
	must(t, err)
	defer listener.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := Ping(ctx, socket); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
}
