package network

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"io"
	"net"
	"net/netip"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
)

func TestBindAddresses(t *testing.T) {
	const machine = "127.18.0.5"
	for _, test := range []struct {
		machine, hostIP string
		want            string // or the error
	}{
		{machine, "", "127.0.0.1 127.18.0.5 ::1"},
		{machine, "0.0.0.0", "127.0.0.1 127.18.0.5 ::1"},
		{machine, "::", "127.0.0.1 127.18.0.5 ::1"},
		{machine, "127.0.0.1", "127.0.0.1 127.18.0.5 ::1"},
		{machine, "::1", "127.0.0.1 127.18.0.5 ::1"},
		{machine, "::ffff:192.168.1.5", "192.168.1.5"},
		{machine, "127.0.0.2", "127.0.0.2"},
		{"127.0.0.1", "", "127.0.0.1 ::1"},
		{machine, "localhost", `host address "localhost"`},
		{machine, "1.2.3", `host address "1.2.3"`},
	} {
		addrs, err := bindAddresses(netip.MustParseAddr(test.machine), test.hostIP)
		got := strings.Trim(fmt.Sprint(addrs), "[]")
		if err != nil {
			got = err.Error()
		}
		if !strings.HasPrefix(got, test.want) || err == nil && got != test.want {
			t.Errorf("%s %q: %s, want %s", test.machine, test.hostIP, got, test.want)
		}
	}
}

// A problemLog collects what OnProblem is told: "+PROBLEM" and "-PROBLEM".
type problemLog struct {
	mu   sync.Mutex
	list []string
}

func (l *problemLog) add(p Problem, solved bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	sign := "+"
	if solved {
		sign = "-"
	}
	l.list = append(l.list, sign+p.Error())
}

func (l *problemLog) has(s string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Contains(l.list, s)
}

// freeOn finds a port that is free for TCP and UDP on all of loopback.
func freeOn(t testing.TB) uint16 {
	t.Helper()
	for range 100 {
		l, err := net.Listen("tcp", ":0")
		if err != nil {
			t.Fatal(err)
		}
		port := l.Addr().(*net.TCPAddr).Port
		u, err := net.ListenPacket("udp", fmt.Sprintf(":%d", port))
		_ = l.Close()
		if err == nil {
			_ = u.Close()
			return uint16(port)
		}
	}
	t.Fatal("no free port")
	return 0
}

func publish(t testing.TB, n *Network, protocol, hostIP string, port uint16) *Binding {
	t.Helper()
	b, err := n.Publish(protocol, hostIP, port)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func hasIPv6(t testing.TB) bool {
	l, err := net.Listen("tcp6", "[::1]:0")
	if err != nil {
		t.Logf("no IPv6 here: %v", err)
		return false
	}
	_ = l.Close()
	return true
}

// loopbacks is where a port published on all addresses must answer.
func loopbacks(t testing.TB, machine netip.Addr, port uint16) []string {
	list := []string{
		netip.AddrPortFrom(machine, port).String(),
		netip.AddrPortFrom(loopback4, port).String(),
	}
	if hasIPv6(t) {
		list = append(list, netip.AddrPortFrom(netip.IPv6Loopback(), port).String())
	}
	return list
}

func machineIP(name string) netip.Addr {
	if runtime.GOOS == "darwin" {
		return loopback4
	}
	sum := sha256.Sum256([]byte(name))
	return netip.AddrFrom4([4]byte{127, 18, sum[0], 1 + sum[1]%254})
}

func TestPublishTCP(t *testing.T) {
	n, g := newPair(t, Config{MachineIP: machineIP(t.Name())})
	port := freeOn(t)
	g.listen(port, echo)
	b := publish(t, n, "tcp", "0.0.0.0", port)
	b6 := publish(t, n, "tcp", "::", port)
	addrs := loopbacks(t, n.config.MachineIP, port)
	var wg sync.WaitGroup
	for i := range 100 {
		wg.Go(func() {
			c, err := net.Dial("tcp", addrs[i%len(addrs)])
			if err != nil {
				t.Error(err)
				return
			}
			defer c.Close()
			checkEcho(t, c, 128<<10)
		})
	}
	wg.Wait()

	b.Close()
	b.Close() // counts once
	for _, addr := range addrs {
		if c, err := net.Dial("tcp", addr); err != nil {
			t.Errorf("one of two bindings closed: %v", err)
		} else {
			_ = c.Close()
		}
	}
	b6.Close()
	for _, addr := range addrs {
		if c, err := net.Dial("tcp", addr); err == nil {
			_ = c.Close()
			t.Errorf("both bindings closed: %s still answers", addr)
		}
	}
	if ports := n.Ports(); len(ports) != 0 {
		t.Errorf("ports left: %v", ports)
	}
}

// TestHalfClose ends the client's side first, and then the guest's.
func TestHalfClose(t *testing.T) {
	n, g := newPair(t, Config{})
	port := freeOn(t)
	g.listen(port, func(c *gonet.TCPConn) {
		defer c.Close()
		b, _ := io.ReadAll(c) // returns at the client's end
		_, _ = fmt.Fprintf(c, "%d bytes", len(b))
	})
	defer publish(t, n, "tcp", "127.0.0.1", port).Close()
	c, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", port))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(10 * time.Second))
	_, _ = c.Write(make([]byte, 300<<10))
	_ = c.(*net.TCPConn).CloseWrite()
	if b, err := io.ReadAll(c); string(b) != "307200 bytes" || err != nil {
		t.Errorf("got %q, %v", b, err)
	}

	port = freeOn(t)
	got := make(chan int, 1)
	g.listen(port, func(c *gonet.TCPConn) {
		defer c.Close()
		_, _ = io.WriteString(c, "bye")
		_ = c.CloseWrite()
		b, _ := io.ReadAll(c)
		got <- len(b)
	})
	defer publish(t, n, "tcp", "127.0.0.1", port).Close()
	if c, err = net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", port)); err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(10 * time.Second))
	if b, err := io.ReadAll(c); string(b) != "bye" || err != nil {
		t.Errorf("got %q, %v", b, err)
	}
	_, _ = c.Write(make([]byte, 1000))
	_ = c.Close()
	if size := <-got; size != 1000 {
		t.Errorf("the guest got %d bytes after its own end, want 1000", size)
	}
}

// TestIdleHalf ends the guest's side and has the client say nothing more: neither a
// guest that goes nor a network that is closed waits for it.
func TestIdleHalf(t *testing.T) {
	for what, end := range map[string]func(*Network, *gonet.TCPConn){
		"the network is closed": func(n *Network, _ *gonet.TCPConn) { n.Close() },
		"the guest is gone":     func(n *Network, _ *gonet.TCPConn) { n.resetConnections() },
	} {
		t.Run(what, func(t *testing.T) {
			n, g := newPair(t, Config{})
			port := freeOn(t)
			served := make(chan *gonet.TCPConn, 1)
			g.listen(port, func(c *gonet.TCPConn) {
				_, _ = io.WriteString(c, "bye")
				_ = c.CloseWrite()
				served <- c
			})
			publish(t, n, "tcp", "127.0.0.1", port)
			c, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", port))
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			_ = c.SetDeadline(time.Now().Add(10 * time.Second))
			if b, err := io.ReadAll(c); string(b) != "bye" || err != nil {
				t.Errorf("got %q, %v", b, err)
			}
			ended := make(chan struct{})
			go func() {
				defer close(ended)
				end(n, <-served)
			}()
			select {
			case <-ended:
			case <-time.After(5 * time.Second):
				t.Error("it waits for the client")
			}
			eventually(t, "the client's connection is reset", func() bool {
				_, err := c.Write([]byte("x"))
				return err != nil
			})
		})
	}
}

// TestReset expects a client to see a reset, not an end, when the guest does
// not take its connection, and the guest to see its client's reset.
func TestReset(t *testing.T) {
	n, g := newPair(t, Config{})
	port := freeOn(t)
	defer publish(t, n, "tcp", "", port).Close()
	addr := fmt.Sprintf("127.0.0.1:%d", port)
	c, err := net.Dial("tcp", addr)
	if err == nil { // the reset may come before Dial returns
		_ = c.SetDeadline(time.Now().Add(10 * time.Second))
		_, err = c.Read(make([]byte, 1))
		_ = c.Close()
	}
	if err == nil || !strings.Contains(err.Error(), "reset") {
		t.Errorf("nobody listens in the guest: %v, want a reset", err)
	}

	got := make(chan error, 1)
	g.listen(port, func(c *gonet.TCPConn) {
		_, err := c.Read(make([]byte, 1))
		got <- err
		_ = c.Close()
	})
	if c, err = net.Dial("tcp", addr); err != nil {
		t.Fatal(err)
	}
	time.Sleep(50 * time.Millisecond)
	_ = c.(*net.TCPConn).SetLinger(0)
	_ = c.Close()
	if err := <-got; err == nil || !strings.Contains(err.Error(), "reset") {
		t.Errorf("the guest sees %v, want a reset", err)
	}
}

func TestPublishUDP(t *testing.T) {
	n, g := newPair(t, Config{MachineIP: machineIP(t.Name())})
	port := freeOn(t)
	g.listenUDP(port, func(b []byte, from net.Addr) []byte {
		return fmt.Appendf(nil, "%s %s", from, b)
	})
	b := publish(t, n, "udp", "", port)
	defer b.Close()
	seen := map[string]bool{}
	for _, addr := range loopbacks(t, n.config.MachineIP, port) {
		for client := range 2 {
			c, err := net.Dial("udp", addr) // connected: answers from elsewhere are lost
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			var session string
			for i := range 3 {
				fields := strings.Fields(ask1(t, c, fmt.Sprintf("%d-%d", client, i)))
				if len(fields) != 2 || fields[1] != fmt.Sprintf("%d-%d", client, i) {
					t.Fatalf("%s: got %q", addr, fields)
				}
				if session != "" && fields[0] != session {
					t.Errorf("%s: the session changed from %s to %s", addr, session, fields[0])
				}
				session = fields[0]
			}
			if seen[session] {
				t.Errorf("%s: two clients share the session %s", addr, session)
			}
			seen[session] = true
		}
	}
}

// TestBigUDP sends the largest datagram both ways.
func TestBigUDP(t *testing.T) {
	n, g := newPair(t, Config{MTU: 16384})
	port := freeOn(t)
	g.listenUDP(port, func(b []byte, _ net.Addr) []byte { return b })
	defer publish(t, n, "udp", "", port).Close()
	c, err := net.Dial("udp", fmt.Sprintf("127.0.0.1:%d", port))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	want := strings.Repeat("x", 65507)
	if got := ask1(t, c, want); got != want {
		t.Errorf("got %d bytes, want %d", len(got), len(want))
	}
}

// ask1 sends a datagram and returns the answer.
func ask1(t testing.TB, c net.Conn, s string) string {
	t.Helper()
	_ = c.SetDeadline(time.Now().Add(5 * time.Second))
	if _, err := c.Write([]byte(s)); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 64<<10)
	n, err := c.Read(b)
	if err != nil {
		t.Fatal(err)
	}
	return string(b[:n])
}

func TestSameNumberTCPAndUDP(t *testing.T) {
	n, g := newPair(t, Config{})
	port := freeOn(t)
	g.listen(port, echo)
	g.listenUDP(port, func(b []byte, _ net.Addr) []byte { return bytes.ToUpper(b) })
	defer publish(t, n, "tcp", "", port).Close()
	defer publish(t, n, "udp", "", port).Close()
	c, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", port))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	checkEcho(t, c, 1000)
	u, err := net.Dial("udp", fmt.Sprintf("127.0.0.1:%d", port))
	if err != nil {
		t.Fatal(err)
	}
	defer u.Close()
	if got := ask1(t, u, "hello"); got != "HELLO" {
		t.Errorf("got %q", got)
	}
}

// TestTakenPort publishes a port that the host uses, and then frees it.
func TestTakenPort(t *testing.T) {
	for _, protocol := range []string{"tcp", "udp"} {
		t.Run(protocol, func(t *testing.T) {
			var log problemLog
			n, _ := newPair(t, Config{OnProblem: log.add, MachineIP: machineIP(t.Name())})
			port := freeOn(t)
			taker := occupy(t, protocol, netip.AddrPortFrom(loopback4, port))
			b := publish(t, n, protocol, "", port)
			text := fmt.Sprintf("publishing %s port %d on 127.0.0.1: address already in use", protocol, port)
			eventually(t, "told", func() bool { return log.has("+" + text) })
			var taken []netip.AddrPort
			for _, p := range n.Ports() {
				if p.Problem != nil {
					taken = append(taken, p.Address)
					if p.Problem.Cause != syscall.EADDRINUSE || p.Problem.Hint() == "" {
						t.Errorf("cause %v, hint %q", p.Problem.Cause, p.Problem.Hint())
					}
				}
			}
			if len(taken) != 1 || taken[0] != netip.AddrPortFrom(loopback4, port) {
				t.Errorf("problems with %v, want 127.0.0.1 alone", taken)
			}
			_ = taker.Close()
			eventually(t, "solved", func() bool { return log.has("-" + text) })
			if !isTaken(protocol, netip.AddrPortFrom(loopback4, port)) {
				t.Error("solved, but nobody listens")
			}
			b.Close()
			if isTaken(protocol, netip.AddrPortFrom(loopback4, port)) {
				t.Error("still listening after Close")
			}
		})
	}
}

func occupy(t testing.TB, protocol string, addr netip.AddrPort) io.Closer {
	t.Helper()
	if protocol == "tcp" {
		l, err := net.Listen("tcp", addr.String())
		if err != nil {
			t.Fatal(err)
		}
		return l
	}
	c, err := net.ListenPacket("udp", addr.String())
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func isTaken(protocol string, addr netip.AddrPort) bool {
	var c io.Closer
	var err error
	if protocol == "tcp" {
		c, err = net.Listen("tcp", addr.String())
	} else {
		c, err = net.ListenPacket("udp", addr.String())
	}
	if err == nil {
		_ = c.Close()
	}
	return err != nil
}

// TestGivingUp closes a binding that has a problem.
func TestGivingUp(t *testing.T) {
	var log problemLog
	n, _ := newPair(t, Config{OnProblem: log.add})
	port := freeOn(t)
	defer occupy(t, "tcp", netip.AddrPortFrom(loopback4, port)).Close()
	b := publish(t, n, "tcp", "", port)
	text := fmt.Sprintf("publishing tcp port %d on 127.0.0.1: address already in use", port)
	eventually(t, "told", func() bool { return log.has("+" + text) })
	b.Close()
	eventually(t, "solved", func() bool { return log.has("-" + text) })
	if ports := n.Ports(); len(ports) != 0 {
		t.Errorf("ports left: %v", ports)
	}
}

// TestTwoMachines publishes one port in two machines: each has it on its own
// address, and the first one on 127.0.0.1 until it gives it up.
func TestTwoMachines(t *testing.T) {
	if machineIP("one") == loopback4 {
		t.Skip("this platform has one loopback address")
	}
	port := freeOn(t)
	say := func(word string) func(*gonet.TCPConn) {
		return func(c *gonet.TCPConn) { _, _ = io.WriteString(c, word); _ = c.Close() }
	}
	n1, g1 := newPair(t, Config{MachineIP: machineIP("one")})
	n2, g2 := newPair(t, Config{MachineIP: machineIP("two")})
	g1.listen(port, say("one"))
	g2.listen(port, say("two"))
	b1 := publish(t, n1, "tcp", "", port)
	b2 := publish(t, n2, "tcp", "", port)
	defer b2.Close()
	get := func(a netip.Addr) string {
		c, err := net.Dial("tcp", netip.AddrPortFrom(a, port).String())
		if err != nil {
			return err.Error()
		}
		defer c.Close()
		_ = c.SetDeadline(time.Now().Add(5 * time.Second))
		b, err := io.ReadAll(c)
		if err != nil {
			return err.Error()
		}
		return string(b)
	}
	for addr, want := range map[netip.Addr]string{machineIP("one"): "one", machineIP("two"): "two", loopback4: "one"} {
		if got := get(addr); got != want {
			t.Errorf("%s: %s, want %s", addr, got, want)
		}
	}
	b1.Close()
	eventually(t, "taken over", func() bool { return get(loopback4) == "two" })
}

func TestBeyondLoopback(t *testing.T) {
	var log problemLog
	n, _ := newPair(t, Config{OnProblem: log.add})
	port := freeOn(t)
	defer publish(t, n, "tcp", "192.0.2.1", port).Close()
	ports := n.Ports()
	if len(ports) != 1 || ports[0].Problem == nil || ports[0].Problem.Hint() == "" {
		t.Errorf("got %+v, want one problem with a hint", ports)
	}
	eventually(t, "told", func() bool {
		return log.has(fmt.Sprintf("+publishing tcp port %d on 192.0.2.1: it is beyond the host's loopback", port))
	})
}

func hostAddressBeyondLoopback() netip.Addr {
	addrs, _ := net.InterfaceAddrs()
	for _, a := range addrs {
		if p, err := netip.ParsePrefix(a.String()); err == nil && p.Addr().Is4() && !p.Addr().IsLoopback() {
			return p.Addr()
		}
	}
	return netip.Addr{}
}

func TestPublishArguments(t *testing.T) {
	n, _ := newNetwork(t, Config{})
	for _, test := range []struct {
		protocol, hostIP string
		port             uint16
		want             string
	}{
		{"sctp", "", 80, "must be tcp or udp"},
		{"tcp", "", 0, "must be between 1 and 65535"},
		{"tcp", "example.com", 80, "host address"},
	} {
		if _, err := n.Publish(test.protocol, test.hostIP, test.port); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%v: %v", test, err)
		}
	}
	_ = n.Close()
	if _, err := n.Publish("tcp", "", 80); err != ErrClosed {
		t.Errorf("after Close: %v, want ErrClosed", err)
	}
}

func TestPrivilegedHint(t *testing.T) {
	p := Problem{"tcp", netip.MustParseAddrPort("127.0.0.1:80"), syscall.EACCES}
	if !strings.Contains(p.Hint(), "1024") || p.Error() != "publishing tcp port 80 on 127.0.0.1: permission denied" {
		t.Errorf("%v: %s", p, p.Hint())
	}
}

func TestForwardTCP(t *testing.T) {
	n, g := newPair(t, Config{})
	g.listen(2376, echo)
	l, err := net.Listen("unix", t.TempDir()+"/engine.sock")
	if err != nil {
		t.Fatal(err)
	}
	f, err := n.ForwardTCP(l, 2376)
	if err != nil {
		t.Fatal(err)
	}
	c, err := net.Dial("unix", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	checkEcho(t, c, 1<<20)
	_ = f.Close()
	if _, err := net.Dial("unix", l.Addr().String()); err == nil {
		t.Error("the listener is open after Close")
	}
}
