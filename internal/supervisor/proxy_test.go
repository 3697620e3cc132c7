package supervisor

import (
	"context"
	"io"
	"log/slog"
	"net"
	"path/filepath"
	"testing"
	"time"
)

// Clients of docker.sock that have gone hold nothing, though the engine keeps its side
// open as it does for docker attach. One that has ended its input alone goes on.
func TestClientsThatHaveGone(t *testing.T) {
	dir := t.TempDir()
	listen := func(name string) net.Listener {
		l, err := net.Listen("unix", filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { l.Close() })
		return l
	}
	engine, socket := listen("engine"), listen("socket")
	attached := make(chan net.Conn, 10)
	go func() {
		for {
			conn, err := engine.Accept()
			if err != nil {
				return
			}
			t.Cleanup(func() { conn.Close() })
			go func() {
				io.Copy(io.Discard, conn)
				attached <- conn
			}()
		}
	}()
	clients := door(10, 2, slog.New(slog.DiscardHandler))
	go forward(t.Context(), clients, socket, func(context.Context) (net.Conn, error) {
		return net.Dial("unix", engine.Addr().String())
	})
	attach := func() *net.UnixConn {
		conn, err := net.Dial("unix", socket.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		if err := conn.(*net.UnixConn).CloseWrite(); err != nil {
			t.Fatal(err)
		}
		return conn.(*net.UnixConn)
	}
	here := attach()
	server := <-attached
	for range 3 {
		gone := attach()
		<-attached
		gone.Close()
	}
	for end := time.Now().Add(5 * time.Second); clients.Budgets[0].Held() != 1; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%d hold something, want 1", clients.Budgets[0].Held())
		}
	}
	io.WriteString(server, "output")
	server.Close()
	here.SetDeadline(time.Now().Add(5 * time.Second))
	if got, err := io.ReadAll(here); string(got) != "output" {
		t.Errorf("a client that has ended its input gets %q, %v", got, err)
	}
}
