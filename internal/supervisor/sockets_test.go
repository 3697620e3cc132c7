package supervisor

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/hyve-vm/hyve/internal/hypervisor"
	"github.com/hyve-vm/hyve/internal/network"
)

// The card's socket is of the kind that the hypervisor wants, the user's alone, and gone
// at the end, whatever an earlier run has left.
func TestServeCard(t *testing.T) {
	for frames, kind := range map[hypervisor.Framing]string{hypervisor.Stream: "unix", hypervisor.Datagrams: "unixgram"} {
		n, err := network.New(network.Config{Log: slog.New(slog.DiscardHandler)})
		if err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(t.TempDir(), "net.sock")
		if err := os.WriteFile(path, nil, 0o644); err != nil {
			t.Fatal(err)
		}
		var s sockets
		if err := s.serveCard(t.Context(), n, path, frames); err != nil {
			t.Fatal(err)
		}
		if info, err := os.Stat(path); err != nil || info.Mode() != 0o600|os.ModeSocket {
			t.Errorf("%s: %v, %v", kind, info, err)
		}
		conn, err := net.DialUnix(kind, &net.UnixAddr{Name: path + ".card", Net: kind}, &net.UnixAddr{Name: path, Net: kind})
		if err != nil {
			t.Fatal(err)
		}
		if frames == hypervisor.Datagrams {
			conn.Write([]byte("card")) // a greeting
		}
		for deadline := time.Now().Add(10 * time.Second); !n.Connected(); time.Sleep(time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatalf("%s: there is no card", kind)
			}
		}
		s.close()
		if _, err := os.Lstat(path); !os.IsNotExist(err) {
			t.Errorf("%s: its socket is left: %v", kind, err)
		}
		n.Close()
		conn.Close()
	}
}

// Neither somebody who waited in vain nor a connection of an earlier VM gets in the way
// of the next one.
func TestChannel(t *testing.T) {
	path := filepath.Join(t.TempDir(), "sock")
	l, err := listenUnix(path)
	if err != nil {
		t.Fatal(err)
	}
	c := &guestSocket{l.(*net.UnixListener)}
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
