package network

import (
	"fmt"
	"io"
	"net"
	"testing"

	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
)

// The guest of these benchmarks is a second stack in the same process, which
// costs about as much as ours.

func BenchmarkToGuest(b *testing.B) {
	for _, mtu := range []int{1500, 16384, 65520} {
		b.Run(fmt.Sprintf("mtu=%d", mtu), func(b *testing.B) {
			n, g := newPair(b, Config{MTU: mtu})
			port := freeOn(b)
			done := make(chan struct{})
			g.listen(port, func(c *gonet.TCPConn) {
				_, _ = io.Copy(io.Discard, c)
				_ = c.Close()
				close(done)
			})
			defer publish(b, n, "tcp", "", port).Close()
			c, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", port))
			if err != nil {
				b.Fatal(err)
			}
			stream(b, c)
			_ = c.Close()
			<-done
		})
	}
}

func BenchmarkFromGuest(b *testing.B) {
	for _, mtu := range []int{1500, 16384, 65520} {
		b.Run(fmt.Sprintf("mtu=%d", mtu), func(b *testing.B) {
			_, g := newPair(b, Config{MTU: mtu})
			l, err := net.Listen("tcp4", "127.0.0.1:0")
			if err != nil {
				b.Fatal(err)
			}
			defer l.Close()
			done := make(chan struct{})
			go func() {
				defer close(done)
				c, err := l.Accept()
				if err != nil {
					return
				}
				_, _ = io.Copy(io.Discard, c)
				_ = c.Close()
			}()
			c, err := g.dial(fmt.Sprintf("%s:%d", HostIP, l.Addr().(*net.TCPAddr).Port))
			if err != nil {
				b.Fatal(err)
			}
			stream(b, c)
			_ = c.Close()
			<-done
		})
	}
}

// stream writes b.N blocks.
func stream(b *testing.B, c net.Conn) {
	block := make([]byte, 128<<10)
	b.SetBytes(int64(len(block)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := c.Write(block); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkConnection is a new connection, a byte each way and its end.
func BenchmarkConnection(b *testing.B) {
	n, g := newPair(b, Config{})
	port := freeOn(b)
	g.listen(port, echo)
	defer publish(b, n, "tcp", "", port).Close()
	addr := fmt.Sprintf("127.0.0.1:%d", port)
	for b.Loop() {
		c, err := net.Dial("tcp", addr)
		if err != nil {
			b.Fatal(err)
		}
		if got := ask1(b, c, "x"); got != "x" {
			b.Fatalf("got %q", got)
		}
		_ = c.Close()
	}
}

// BenchmarkRoundTrip is a byte each way on a connection that is there.
func BenchmarkRoundTrip(b *testing.B) {
	n, g := newPair(b, Config{})
	g.listen(80, echo)
	c, err := n.DialGuest(b.Context(), 80)
	if err != nil {
		b.Fatal(err)
	}
	defer c.Close()
	buf := make([]byte, 1)
	for b.Loop() {
		if _, err := c.Write(buf); err != nil {
			b.Fatal(err)
		}
		if _, err := io.ReadFull(c, buf); err != nil {
			b.Fatal(err)
		}
	}
}
