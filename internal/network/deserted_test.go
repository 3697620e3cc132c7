package network

import (
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
)

// keeper is a server of the guest that says "hi" and keeps its side open, whatever its
// client does, until the test ends. What its client says is told.
func keeper(t *testing.T, heard chan<- string) func(*gonet.TCPConn) {
	return func(c *gonet.TCPConn) {
		t.Cleanup(func() { c.Close() })
		_, _ = io.WriteString(c, "hi")
		b, _ := io.ReadAll(c)
		heard <- string(b)
	}
}

// Clients that have gone hold nothing, at a guest that keeps its side open. Those that
// have ended one direction go on.
func TestClientsThatHaveGoneHoldNothing(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("keep-alive probes find it, which takes a minute")
	}
	const crowd = 300
	n, g := newPair(t, Config{})
	port := freeOn(t)
	heard := make(chan string, 10*crowd)
	g.listen(port, keeper(t, heard))
	publish(t, n, "tcp", "127.0.0.1", port)
	plain := func() net.Conn { return dialTo(t, "tcp", "127.0.0.1:"+strconv.Itoa(int(port))) }

	// One is there for as long as the others.
	here := make(chan *gonet.TCPConn, 1)
	echoed := freeOn(t)
	g.listen(echoed, func(c *gonet.TCPConn) { here <- c })
	publish(t, n, "tcp", "127.0.0.1", echoed)
	alive := dialTo(t, "tcp", "127.0.0.1:"+strconv.Itoa(int(echoed)))
	_ = alive.(*net.TCPConn).CloseWrite()

	l, err := net.Listen("unix", filepath.Join(t.TempDir(), "s"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := n.ForwardTCP(l, port); err != nil {
		t.Fatal(err)
	}
	greeted := func(c net.Conn) net.Conn {
		_ = c.SetDeadline(time.Now().Add(10 * time.Second))
		if _, err := io.ReadFull(c, make([]byte, 2)); err != nil {
			t.Error(err)
		}
		return c
	}
	end := func(c net.Conn) net.Conn { _ = closeWrite(c); return c }
	later := func(c net.Conn) { time.AfterFunc(time.Second, func() { c.Close() }) }
	for what, one := range map[string]func(){
		"closed":                func() { greeted(plain()).Close() },
		"closed at once":        func() { plain().Close() },
		"ended, then closed":    func() { end(greeted(plain())).Close() },
		"ended, closed later":   func() { later(end(greeted(plain()))) },
		"with something to say": func() { c := greeted(plain()); io.WriteString(c, "last words"); c.Close() },
		"unix socket":           func() { greeted(dialTo(t, "unix", l.Addr().String())).Close() },
		"unix socket, later":    func() { later(end(greeted(dialTo(t, "unix", l.Addr().String())))) },
	} {
		t.Run(what, func(t *testing.T) {
			for range crowd / 6 {
				one()
			}
			eventually(t, "given back", func() bool { return n.inbound.Held() == 1 })
		})
	}
	for range crowd {
		greeted(plain()).Close()
	}
	eventually(t, "given back", func() bool { return n.inbound.Held() == 1 })
	said := 0
	for len(heard) > 0 {
		if <-heard == "last words" {
			said++
		}
	}
	if said != crowd/6 {
		t.Errorf("%d clients' last words were heard, want %d", said, crowd/6)
	}

	c := <-here
	_, _ = io.WriteString(c, "still there")
	_ = c.Close()
	_ = alive.SetDeadline(time.Now().Add(10 * time.Second))
	if b, err := io.ReadAll(alive); string(b) != "still there" {
		t.Errorf("a client that has ended one direction gets %q, %v", b, err)
	}
}

// What a client has said before it went reaches a guest that is slow to read.
func TestLastWordsOfAClientThatHasGone(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("keep-alive probes find it, which takes a minute")
	}
	const size = 4 << 20
	n, g := newPair(t, Config{})
	port := freeOn(t)
	got := make(chan int64, 1)
	g.listen(port, func(c *gonet.TCPConn) {
		defer c.Close()
		time.Sleep(time.Second)
		all, _ := io.Copy(io.Discard, c)
		got <- all
		<-t.Context().Done()
	})
	publish(t, n, "tcp", "127.0.0.1", port)
	c := dialTo(t, "tcp", "127.0.0.1:"+strconv.Itoa(int(port)))
	if _, err := c.Write(make([]byte, size)); err != nil {
		t.Fatal(err)
	}
	_ = c.Close()
	select {
	case all := <-got:
		if all != size {
			t.Errorf("%d of %d bytes", all, size)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("no end")
	}
	eventually(t, "given back", func() bool { return n.inbound.Held() == 0 })
}

// The guest's own connections to servers that have gone are given back likewise.
func TestServersThatHaveGone(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("keep-alive probes find it, which takes a minute")
	}
	n, g := newPair(t, Config{})
	addr := lazy(t, func(c net.Conn) { _ = c.Close() })
	for range 20 {
		c, err := g.dial(addr)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if _, err := io.ReadAll(c); err != nil {
			t.Error(err)
		}
	}
	eventually(t, "given back", func() bool {
		n.outbound.mu.Lock()
		defer n.outbound.mu.Unlock()
		return len(n.outbound.members) == 0
	})
}

// However many other users there are, hyve's own has a part of a listener and of all.
func TestOthersLeaveHyvesUserAPart(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("tells nobody's user")
	}
	n, _ := newNetwork(t, Config{})
	for i, budget := range n.listenerBudgets() {
		others, own := 0, 0
		for uid := range 10 {
			for budget.Take(fmt.Sprintf("uid %d", 70000+uid)) {
				others++
			}
		}
		for budget.Take(fmt.Sprintf("uid %d", os.Getuid())) {
			own++
		}
		if want := n.inboundLimit / (2 - i) / ownPart; own != want || others != (ownPart-1)*want {
			t.Errorf("budget %d: others have %d and hyve's user %d, want %d", i, others, own, want)
		}
	}
}

func dialTo(t *testing.T, network, address string) net.Conn {
	t.Helper()
	c, err := net.Dial(network, address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}
