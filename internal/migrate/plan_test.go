package migrate

import (
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hyve-vm/hyve/internal/dockerenv"
)

// An engine that takes a call and never answers it is given up.
func TestLookAtASilentEngine(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	e := dockerenv.Endpoint{Host: "unix://" + path}.Open()
	defer e.Close()
	_, err = look(t.Context(), e, 50*time.Millisecond)
	if err == nil || !strings.Contains(err.Error(), "it does not answer within 50ms") {
		t.Errorf("%v", err)
	}
}
