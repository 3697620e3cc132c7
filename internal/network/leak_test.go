package network

import (
	"fmt"
	"net"
	"net/netip"
	"runtime"
	"runtime/pprof"
	"strings"
	"testing"
	"time"
)

// TestNothingLeft uses everything at once, closes the network in the middle of
// it and expects no goroutine and no listener to be left.
func TestNothingLeft(t *testing.T) {
	before := runtime.NumGoroutine()
	port := freeOn(t)
	t.Run("use", func(t *testing.T) {
		n, g := newPair(t, Config{MachineIP: machineIP(t.Name())})
		g.listen(port, echo)
		g.listenUDP(port, func(b []byte, _ net.Addr) []byte { return b })
		publish(t, n, "tcp", "", port)
		publish(t, n, "udp", "", port)
		publish(t, n, "udp", "127.0.0.1", freeOn(t))
		taken := freeOn(t)
		defer occupy(t, "tcp", netip.AddrPortFrom(loopback4, taken)).Close()
		publish(t, n, "tcp", "", taken)
		var conns []net.Conn
		defer func() {
			for _, c := range conns {
				_ = c.Close()
			}
		}()
		addr := fmt.Sprintf("127.0.0.1:%d", port)
		for range 20 {
			c, err := net.Dial("tcp", addr)
			if err != nil {
				t.Fatal(err)
			}
			conns = append(conns, c)
			if got := ask1(t, c, "x"); got != "x" {
				t.Errorf("got %q", got)
			}
			u, err := net.Dial("udp", addr)
			if err != nil {
				t.Fatal(err)
			}
			conns = append(conns, u)
			_ = ask1(t, u, "x")
			o, err := g.dial(fmt.Sprintf("%s:%d", HostIP, port)) // out and in again
			if err != nil {
				t.Fatal(err)
			}
			conns = append(conns, o)
			_ = ask1(t, o, "x")
			conns = append(conns, g.dialUDP(fmt.Sprintf("%s:%d", HostIP, port)))
			_ = ask1(t, conns[len(conns)-1], "x")
		}
		if _, err := n.DialGuest(t.Context(), port); err != nil {
			t.Fatal(err)
		}
		start := time.Now()
		_ = n.Close()
		if d := time.Since(start); d > 2*time.Second {
			t.Errorf("closing took %v", d)
		}
		for _, c := range conns {
			if _, tcp := c.(*net.TCPConn); !tcp {
				continue
			}
			_ = c.SetReadDeadline(time.Now().Add(5 * time.Second))
			if _, err := c.Read(make([]byte, 1)); err == nil || strings.Contains(err.Error(), "timeout") {
				t.Fatalf("a connection outlives the network: %v", err)
			}
		}
		for _, protocol := range []string{"tcp", "udp"} {
			if isTaken(protocol, netip.AddrPortFrom(loopback4, port)) {
				t.Errorf("%s port %d is still bound", protocol, port)
			}
		}
	})
	end := time.Now().Add(5 * time.Second)
	for runtime.NumGoroutine() > before {
		if time.Now().After(end) {
			var b strings.Builder
			_ = pprof.Lookup("goroutine").WriteTo(&b, 1)
			t.Fatalf("%d goroutines, %d before\n%s", runtime.NumGoroutine(), before, b.String())
		}
		time.Sleep(10 * time.Millisecond)
	}
}
