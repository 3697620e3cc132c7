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

// engine serves one status and body on a new socket, for every path.
func engine(t *testing.T, status int, body string) string {
	t.Helper()
	socket := filepath.Join(t.TempDir(), "docker.sock")
	listener, err := net.Listen("unix", socket)
	must(t, err)
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/_ping" && r.URL.Path != "/version" {
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
	must(t, Ping(t.Context(), engine(t, 200, "OK")))
	version, err := Version(t.Context(), engine(t, 200, `{"Version":"26.1.5","ApiVersion":"1.45"}`))
	if version != "26.1.5" || err != nil {
		t.Errorf("got %q, error %v", version, err)
	}
}

func TestEngineErrors(t *testing.T) {
	for name, test := range map[string]struct {
		status     int
		body, want string
	}{
		"its message":   {500, `{"message":"containerd is gone"}`, "500 Internal Server Error: containerd is gone"},
		"no JSON":       {502, "bad gateway\n", "502 Bad Gateway: bad gateway"},
		"no version":    {200, `{}`, "none in its answer"},
		"not an engine": {200, "<html>", "invalid character"},
		"too long":      {200, `{"Version":"` + strings.Repeat("x", maxAnswer), "reading the engine's version"},
	} {
		if version, err := Version(t.Context(), engine(t, test.status, test.body)); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: got %q, error %v, want %q", name, version, err, test.want)
		}
	}
	if err := Ping(t.Context(), filepath.Join(t.TempDir(), "none")); !errors.Is(err, fs.ErrNotExist) {
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
	if err := Ping(ctx, socket); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
}
