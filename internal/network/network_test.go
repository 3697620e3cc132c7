package network

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
)

func TestDialGuest(t *testing.T) {
	n, g := newPair(t, Config{})
	g.listen(80, echo)
	c, err := n.DialGuest(t.Context(), 80)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	checkEcho(t, c, 1<<20)

	start := time.Now()
	if _, err := n.DialGuest(t.Context(), 81); err == nil || !strings.Contains(err.Error(), "refused") {
		t.Errorf("dialing a closed port: %v, want refused", err)
	}
	if d := time.Since(start); d > time.Second {
		t.Errorf("a refused dial took %v", d)
	}
}

func TestDialWithoutGuest(t *testing.T) {
	n, _ := newNetwork(t, Config{})
	if _, err := n.DialGuest(t.Context(), 80); !errors.Is(err, ErrNoGuest) {
		t.Errorf("got %v, want ErrNoGuest", err)
	}
	_ = n.Close()
	if _, err := n.DialGuest(t.Context(), 80); !errors.Is(err, ErrClosed) {
		t.Errorf("after Close: got %v, want ErrClosed", err)
	}
}

func TestDialGuestContext(t *testing.T) {
	n, path := newNetwork(t, Config{})
	c, err := net.Dial("unix", path) // a guest that never says a word
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	eventually(t, "connected", n.Connected)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := n.DialGuest(ctx, 80); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v, want deadline exceeded", err)
	}
}

// checkEcho sends random bytes both ways at once and compares them, then ends
// its side and expects the other's end.
func checkEcho(t *testing.T, c net.Conn, size int) {
	t.Helper()
	_ = c.SetDeadline(time.Now().Add(20 * time.Second))
	want := make([]byte, size)
	_, _ = rand.Read(want)
	go func() {
		_, _ = c.Write(want)
		_ = closeWrite(c)
	}()
	got, err := io.ReadAll(c)
	if err != nil {
		t.Errorf("reading the echo: %v", err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("the echo differs: %d bytes, want %d", len(got), len(want))
	}
}

// TestOutboundTCP dials a server on the host's loopback from the guest.
func TestOutboundTCP(t *testing.T) {
	_, g := newPair(t, Config{})
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				_, _ = io.Copy(c, c)
				_ = c.Close()
			}()
		}
	}()
	port := l.Addr().(*net.TCPAddr).Port
	var wg sync.WaitGroup
	for range 100 {
		wg.Go(func() {
			c, err := g.dial(fmt.Sprintf("%s:%d", HostIP, port))
			if err != nil {
				t.Error(err)
				return
			}
			defer c.Close()
			checkEcho(t, c, 64<<10)
		})
	}
	wg.Wait()
}

// TestRefused dials from the guest what it must not reach, and what is closed;
// each must be refused at once although something listens there on the host.
func TestRefused(t *testing.T) {
	_, g := newPair(t, Config{})
	l, err := net.Listen("tcp4", "0.0.0.0:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	port := uint16(l.Addr().(*net.TCPAddr).Port)
	closed := freePort(t)
	for _, addr := range []string{
		fmt.Sprintf("%s:%d", GatewayIP, port),
		"169.254.169.254:80",
		fmt.Sprintf("%s:%d", HostIP, closed),
	} {
		start := time.Now()
		c, err := g.dial(addr)
		if err == nil {
			_ = c.Close()
		}
		if err == nil || !strings.Contains(err.Error(), "refused") {
			t.Errorf("%s: %v, want refused", addr, err)
		}
		if d := time.Since(start); d > 2*time.Second {
			t.Errorf("%s: took %v", addr, d)
		}
	}
}

func freePort(t testing.TB) uint16 {
	t.Helper()
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return uint16(l.Addr().(*net.TCPAddr).Port)
}

func TestConfig(t *testing.T) {
	for _, test := range []struct {
		config Config
		err    string
	}{
		{Config{MTU: 100}, "MTU 100, must be between 1280 and 65520"},
		{Config{MTU: 65521}, "must be between"},
		{Config{MachineIP: netip.MustParseAddr("10.0.0.1")}, "must be in 127.0.0.0/8"},
		{Config{MachineIP: netip.MustParseAddr("::1")}, "must be in 127.0.0.0/8"},
	} {
		if _, err := New(test.config); err == nil || !strings.Contains(err.Error(), test.err) {
			t.Errorf("%+v: %v, want %q", test.config, err, test.err)
		}
	}
}

// The guest can tell this user's own sockets, which nobody else can open, from everybody's.
func TestGuestSeesWhoseConnectionItIs(t *testing.T) {
	n, g := newPair(t, Config{})
	from := make(chan string, 1)
	g.listen(22, func(c *gonet.TCPConn) {
		host, _, _ := net.SplitHostPort(c.RemoteAddr().String())
		from <- host
		c.Close()
	})
	own, err := net.Listen("unix", filepath.Join(t.TempDir(), "s"))
	if err != nil {
		t.Fatal(err)
	}
	open, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	for l, want := range map[net.Listener]string{own: HostIP, open: GatewayIP} {
		if _, err := n.ForwardTCP(l, 22); err != nil {
			t.Fatal(err)
		}
		conn, err := net.Dial(l.Addr().Network(), l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if got := <-from; got != want {
			t.Errorf("by %s: from %s, want %s", l.Addr().Network(), got, want)
		}
	}
	conn, err := n.DialGuest(t.Context(), 22)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if got := <-from; got != HostIP {
		t.Errorf("DialGuest: from %s", got)
	}
}

// The guest may call again from the port of a connection that the host has ended.
func TestEndedConnectionsAreForgotten(t *testing.T) {
	n, g := newPair(t, Config{})
	addr := lazy(t, func(c net.Conn) { c.Close() })
	flood(50, func() (net.Conn, error) { return g.dial(addr) }, func(c net.Conn) {
		_, _ = io.Copy(io.Discard, c)
		_ = c.Close()
	})
	eventually(t, "the stack has forgotten them", func() bool {
		for _, ep := range n.stack.RegisteredEndpoints() {
			if e, ok := ep.(*tcp.Endpoint); ok && e.EndpointState() == tcp.StateTimeWait {
				return false
			}
		}
		return true
	})
}

// What a guest has not read counts, also when both sides have said all.
func TestUnreadRestsCount(t *testing.T) {
	n, g := newPair(t, Config{})
	small := tcpip.TCPReceiveBufferSizeRangeOption{Min: 4 << 10, Default: 64 << 10, Max: 64 << 10}
	g.stack.SetTransportProtocolOption(tcp.ProtocolNumber, &small)
	const read, rest = 4 << 20, 256 << 10 // after so much the buffers have room for the rest
	addr := lazy(t, func(c net.Conn) {
		defer c.Close()
		_, _ = c.Write(make([]byte, read+rest))
	})
	c, err := g.dial(addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := io.CopyN(io.Discard, c, read); err != nil {
		t.Fatal(err)
	}
	if err := c.(*gonet.TCPConn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "both sides have ended", func() bool {
		for _, ep := range n.stack.RegisteredEndpoints() {
			if e, ok := ep.(*tcp.Endpoint); ok {
				switch e.EndpointState() {
				case tcp.StateClosing, tcp.StateLastAck:
					return true
				}
			}
		}
		return false
	})
	eventually(t, "it counts as stuck", func() bool {
		list := n.conns.list()
		return len(list) == 1 && list[0].stuck.Load() > 0
	})
	if got, err := io.Copy(io.Discard, c); got != rest || err != nil {
		t.Errorf("the rest is of %d bytes, %v", got, err)
	}
	eventually(t, "it counts no more", func() bool { return len(n.conns.list()) == 0 })
}
