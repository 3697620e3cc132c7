package network

import (
	"fmt"
	"net"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestUnansweredDialsKeepNobodyOut has one program of the guest dial a server that does
// not answer, many times over what dials there may be, while another dials one that does.
func TestUnansweredDialsKeepNobodyOut(t *testing.T) {
	n, g := newPair(t, Config{})
	n.dials.limit = 8
	hole := fmt.Sprintf("%s:%d", HostIP, silent(t))
	open := fmt.Sprintf("%s:%d", HostIP, tcpEcho(t, "127.0.0.1"))
	for range 40 {
		go g.dial(hole)
	}
	eventually(t, "full", func() bool { n.dials.mu.Lock(); defer n.dials.mu.Unlock(); return len(n.dials.members) == 8 })
	for range 10 {
		start := time.Now()
		c, err := g.dial(open)
		if err != nil {
			t.Fatalf("kept out: %v", err)
		}
		if ask1(t, c, "x") != "x" || time.Since(start) > 2*time.Second {
			t.Errorf("served after %v", time.Since(start))
		}
		c.Close()
	}
	n.dials.mu.Lock()
	defer n.dials.mu.Unlock()
	if len(n.dials.members) > 8 {
		t.Errorf("%d dials, at most 8", len(n.dials.members))
	}
}

// silent is a port of the host whose queue is full: what comes is not answered.
func silent(t *testing.T) int {
	t.Helper()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	if err := unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		t.Fatal(err)
	}
	if err := unix.Listen(fd, 0); err != nil {
		t.Fatal(err)
	}
	name, err := unix.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	port := name.(*unix.SockaddrInet4).Port
	for range 20 {
		c, err := net.DialTimeout("tcp4", fmt.Sprintf("127.0.0.1:%d", port), 200*time.Millisecond)
		if err != nil {
			return port
		}
		t.Cleanup(func() { c.Close() })
	}
	t.Skip("this system answers beyond the queue")
	return 0
}
