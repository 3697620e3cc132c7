package supervisor

import (
	"context"
	"errors"
	"net"
	"path/filepath"
	"testing"
	"time"
)

// Neither somebody who waited in vain nor a connection of an earlier VM gets in the way
// of the next one.
func TestChannel(t *testing.T) {
	path := filepath.Join(t.TempDir(), "sock")
	l, err := listenUnix(path)
	if err != nil {
		t.Fatal(err)
	}
	c := &channel{l.(*net.UnixListener)}
	defer c.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if _, err := c.accept(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("nobody came: %v", err)
	}
	dial := func(text string) {
		t.Helper()
		conn, err := net.Dial("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		conn.Write([]byte(text))
		conn.Close()
	}
	dial("old")
	dial("old")
	c.forget()
	dial("new")
	conn, err := c.accept(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	buf := make([]byte, 3)
	if conn.Read(buf); string(buf) != "new" {
		t.Errorf("%q came first", buf)
	}
}
