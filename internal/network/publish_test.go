package network

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
)

func TestPlaces(t *testing.T) {
	const machine = "127.18.0.5"
	for _, test := range []struct {
		machine, hostIP string
		want            string // or the error
	}{
		{machine, "", "127.0.0.1 shared, 127.18.0.5 own, ::1 shared"},
		{machine, "0.0.0.0", "127.0.0.1 shared, 127.18.0.5 own"},
		{machine, "::", "::1 shared"},
		{machine, "127.0.0.1", "127.0.0.1 named, 127.18.0.5 extra"},
		{machine, "::1", "::1 named"},
		{machine, machine, "127.18.0.5 named"},
		{"127.0.0.1", "", "127.0.0.1 named, ::1 named"},
		{"127.0.0.1", "0.0.0.0", "127.0.0.1 named"},
		{"127.0.0.1", "127.0.0.1", "127.0.0.1 named"},
		// What is not the machine's: other machines', the rest of the loopback, the
		// host's, groups; nor anything that only looks like its own.
		{machine, "127.18.0.6", "error"},
		{machine, "127.0.0.2", "error"},
		{machine, "127.255.255.255", "error"},
		{machine, "192.168.1.5", "error"},
		{machine, "224.0.0.1", "error"},
		{machine, "255.255.255.255", "error"},
		{machine, "::ffff:127.0.0.1", "error"},
		{machine, "::ffff:127.18.0.6", "error"},
		{machine, "::ffff:0.0.0.0", "error"},
		{machine, "::1%lo", "error"},
		{machine, "::%lo", "error"},
		{machine, "fe80::1%eth0", "error"},
		{machine, "ff02::1", "error"},
		{machine, "0:0:0:0:0:0:0:1", "error"},
		{machine, "127.0.0.01", "error"},
		{machine, "127.1", "error"},
		{machine, "localhost", "error"},
		{machine, "1.2.3", "error"},
		{machine, "::1%" + strings.Repeat("x", 1<<20), "error"},
	} {
		places, err := placesOf(netip.MustParseAddr(test.machine), test.hostIP)
		var list []string
		for _, p := range places {
			list = append(list, fmt.Sprint(p.ip, " ", []string{"extra", "shared", "own", "named"}[p.need]))
		}
		got := strings.Join(list, ", ")
		if err != nil {
			got = "error"
			if len(err.Error()) > 300 {
				t.Errorf("the error has %d bytes", len(err.Error()))
			}
		}
		if got != test.want {
			t.Errorf("%s %.40q: %s, want %s", test.machine, test.hostIP, got, test.want)
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
	b, err := n.Publish(Publication{Protocol: protocol, HostIP: hostIP, Port: port})
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
	again := publish(t, n, "tcp", "0.0.0.0", port)
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
	again.Close()
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
			text := fmt.Sprintf("publishing %s port %d on 127.0.0.1: address already in use%s", protocol, port, heldHere())
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

// heldHere is what a problem says of a port that this process has.
func heldHere() string {
	if runtime.GOOS != "linux" {
		return ""
	}
	return fmt.Sprintf(", held by %s (process %d)", filepath.Base(os.Args[0]), os.Getpid())
}

// TestGivingUp closes a binding that has a problem.
func TestGivingUp(t *testing.T) {
	var log problemLog
	n, _ := newPair(t, Config{OnProblem: log.add})
	port := freeOn(t)
	defer occupy(t, "tcp", netip.AddrPortFrom(loopback4, port)).Close()
	b := publish(t, n, "tcp", "", port)
	text := fmt.Sprintf("publishing tcp port %d on 127.0.0.1: address already in use%s", port, heldHere())
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
		{"dccp", "", 80, "only tcp and udp"},
		{"tcp", "", 0, "must be between 1 and 65535"},
		{"tcp", "example.com", 80, "not this machine's"},
		{"tcp", "192.0.2.1", 80, "not this machine's"},
	} {
		if _, err := n.Publish(Publication{Protocol: test.protocol, HostIP: test.hostIP, Port: test.port}); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%v: %v", test, err)
		}
	}
	_ = n.Close()
	if _, err := n.Publish(Publication{Protocol: "tcp", Port: 80}); err != ErrClosed {
		t.Errorf("after Close: %v, want ErrClosed", err)
	}
}

// What cannot be passed on is refused where somebody can be, and else a problem while it is wanted.
func TestPublishInMachineAlone(t *testing.T) {
	for _, protocol := range []string{"sctp", "udplite"} {
		n, _ := newNetwork(t, Config{})
		for _, hostIP := range []string{"", "0.0.0.0", "::", "127.0.0.1"} {
			_, err := n.Publish(Publication{Protocol: protocol, HostIP: hostIP, Port: 7000, Firm: true})
			if refusal, ok := errors.AsType[*Refusal](err); !ok || !strings.Contains(refusal.Error(), "protocol not supported") {
				t.Errorf("%s firmly, on %q: %v", protocol, hostIP, err)
			}
		}
		binding, err := n.Publish(Publication{Protocol: protocol, Port: 7001})
		if err != nil {
			t.Fatal(err)
		}
		if ports := n.Ports(); len(ports) != 1 || ports[0].Problem == nil ||
			ports[0].Problem.Error() != "publishing "+protocol+" port 7001 on 127.0.0.1: protocol not supported" ||
			!strings.Contains(ports[0].Problem.Hint(), protocol+" is served in the machine alone") {
			t.Errorf("its problems are %v", ports)
		}
		binding.Close()
		if ports := n.Ports(); len(ports) != 0 {
			t.Errorf("it is not wanted any more: %v", ports)
		}
	}
}

func TestPrivilegedHint(t *testing.T) {
	p := Problem{Protocol: "tcp", Address: netip.MustParseAddrPort("127.0.0.1:80"), Cause: syscall.EACCES}
	if !strings.Contains(p.Hint(), "1024") || p.Error() != "publishing tcp port 80 on 127.0.0.1: permission denied" {
		t.Errorf("%v: %s", p, p.Hint())
	}
}

// TestRefusal asks firmly for ports that others have.
func TestRefusal(t *testing.T) {
	machine := machineIP(t.Name())
	if machine == loopback4 {
		t.Skip("this platform has one loopback address")
	}
	for _, test := range []struct {
		name, hostIP, taken string
		chosen, door        bool
		want                string // part of the refusal; empty: none
	}{
		{name: "free"},
		{name: "chosen", chosen: true},
		{name: "localhost", hostIP: "0.0.0.0", taken: "127.0.0.1", want: "bind: address already in use (127.0.0.1:"},
		{name: "all", taken: "127.0.0.1", want: "is held by "},
		{name: "IPv6", taken: "::1", want: "bind: address already in use ([::1]:"},
		{name: "IPv6 beside IPv4", hostIP: "0.0.0.0", taken: "::1"},
		{name: "IPv4 beside IPv6", hostIP: "::", taken: "127.0.0.1"},
		{name: "wildcard", taken: "0.0.0.0", want: "is held by "},
		{name: "own", taken: machine.String(), want: machine.String()},
		{name: "own, wanted on localhost", hostIP: "127.0.0.1", taken: machine.String()},
		{name: "localhost by name", hostIP: "127.0.0.1", taken: "127.0.0.1", want: "already in use"},
		{name: "own by name", hostIP: machine.String(), taken: "127.0.0.1"},
		{name: "door", door: true},
		{name: "door and localhost by name", hostIP: "127.0.0.1", door: true},
		{name: "door by name", hostIP: machine.String(), door: true, want: "held by hyve, for this machine"},
		{name: "chosen, localhost", chosen: true, taken: "127.0.0.1", want: "already in use"},
	} {
		for _, protocol := range []string{"tcp", "udp"} {
			t.Run(protocol+" "+test.name, func(t *testing.T) {
				if (test.taken == "::1" || test.hostIP == "::") && !hasIPv6(t) {
					t.Skip("no IPv6 here")
				}
				var log problemLog
				n, _ := newNetwork(t, Config{OnProblem: log.add, MachineIP: machine})
				port := freeOn(t)
				if test.taken != "" {
					defer occupy(t, protocol, netip.AddrPortFrom(netip.MustParseAddr(test.taken), port)).Close()
				}
				if test.door {
					n.Reserve(netip.AddrPortFrom(machine, port))
				}
				b, err := n.Publish(Publication{Protocol: protocol, HostIP: test.hostIP, Port: port, Firm: true, Chosen: test.chosen})
				var refusal *Refusal
				switch {
				case test.want == "" && err != nil:
					t.Fatalf("refused: %v", err)
				case test.want == "":
					b.Close()
				case !errors.As(err, &refusal) || !strings.Contains(err.Error(), test.want):
					t.Fatalf("got %v, want %q", err, test.want)
				case runtime.GOOS == "linux" && test.taken != "" && !strings.Contains(err.Error(), strings.TrimPrefix(heldHere(), ", ")):
					t.Errorf("got %v, want %s", err, heldHere())
				}
				if ports := n.Ports(); len(ports) != 0 {
					t.Errorf("ports are left: %v", ports)
				}
				if test.want != "" && len(log.list) > 0 {
					t.Errorf("a port that was refused is a problem as well: %v", log.list)
				}
			})
		}
	}
}

// As another process, the tests listen where they are told until their input ends.
func init() {
	if address := os.Getenv("LISTEN_AS_MACHINE"); address != "" {
		_, err := net.Listen("tcp", address)
		fmt.Fprintln(os.Stderr, err)
		io.Copy(io.Discard, os.Stdin)
		os.Exit(0)
	}
}

// TestAnotherMachineHasLocalhost has a process that is called as a supervisor is take a port.
func TestAnotherMachineHasLocalhost(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("nobody tells who has a port")
	}
	port := freeOn(t)
	machine := machineIP(t.Name())
	address := netip.AddrPortFrom(loopback4, port)
	other := exec.Command(os.Args[0])
	other.Args = []string{"hyve", "supervise", "neigh\x1b[2Jbour"}
	other.Env = append(os.Environ(), "LISTEN_AS_MACHINE="+address.String())
	in, _ := other.StdinPipe()
	if err := other.Start(); err != nil {
		t.Fatal(err)
	}
	defer other.Wait()
	defer in.Close()
	eventually(t, "taken", func() bool { return isTaken("tcp", address) })
	var log problemLog
	n, _ := newNetwork(t, Config{OnProblem: log.add, MachineIP: machine})
	if _, err := n.Publish(Publication{Protocol: "tcp", Port: port, Firm: true, Chosen: true}); err == nil || !strings.Contains(err.Error(), "held by machine neigh?[2Jbour") {
		t.Errorf("a port that may be any other: %v", err)
	}
	if _, err := n.Publish(Publication{Protocol: "tcp", HostIP: "127.0.0.1", Port: port, Firm: true}); err == nil {
		t.Error("localhost by name is no other address")
	}
	b, err := n.Publish(Publication{Protocol: "tcp", HostIP: "0.0.0.0", Port: port, Firm: true})
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	if !isTaken("tcp", netip.AddrPortFrom(machine, port)) {
		t.Error("it does not listen on its own address")
	}
	text := fmt.Sprintf("publishing tcp port %d on 127.0.0.1: address already in use, held by machine neigh?[2Jbour", port)
	eventually(t, "told", func() bool { return log.has("+" + text) })
	in.Close()
	eventually(t, "taken over", func() bool { return log.has("-" + text) })
}

// TestGuestPort publishes one port from two places in the guest.
func TestGuestPort(t *testing.T) {
	n, g := newPair(t, Config{})
	port, elsewhere := freeOn(t), freeOn(t)
	g.listen(elsewhere, echo)
	b, err := n.Publish(Publication{Protocol: "tcp", Port: port, Guest: elsewhere, Firm: true})
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	c, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", port))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	checkEcho(t, c, 1000)
	if _, err := n.Publish(Publication{Protocol: "tcp", Port: port, Firm: true}); err == nil || !strings.Contains(err.Error(), "another container of this machine") {
		t.Errorf("the same port for another service: %v", err)
	}
}

// TestMaxPorts asks for more ports than a machine gets.
func TestMaxPorts(t *testing.T) {
	n, _ := newNetwork(t, Config{MachineIP: machineIP(t.Name())})
	var asked, got int
	var last *Binding
	for port := uint16(20000); asked < MaxPorts+100; port++ {
		asked++
		b, err := n.Publish(Publication{Protocol: "udp", HostIP: machineIP(t.Name()).String(), Port: port})
		if err == nil {
			got++
			last = b
		}
	}
	if got != MaxPorts {
		t.Errorf("%d of %d ports were published, want %d", got, asked, MaxPorts)
	}
	last.Close()
	publish(t, n, "udp", machineIP(t.Name()).String(), 50000)
	// One port again and again is bounded, too.
	for asked, got = 0, 0; asked < 2*maxBindings; asked++ {
		if _, err := n.Publish(Publication{Protocol: "udp", HostIP: machineIP(t.Name()).String(), Port: 50000}); err == nil {
			got++
		}
	}
	if want := maxBindings - MaxPorts; got != want {
		t.Errorf("one port was bound %d times more, want %d", got, want)
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

// An own address that a port on localhost has as an extra goes to the container that asks
// for it by name, whoever comes first, and back when that one is gone.
func TestExtraYieldsToNamed(t *testing.T) {
	machine := machineIP(t.Name())
	if machine == loopback4 {
		t.Skip("this platform has one loopback address")
	}
	type binding struct {
		word, hostIP string
	}
	q1, q2 := binding{"q1", "127.0.0.1"}, binding{"q2", machine.String()}
	for _, protocol := range []string{"tcp", "udp"} {
		for _, order := range [][]binding{{q1, q2}, {q2, q1}} {
			for _, first := range []string{"q1", "q2"} {
				t.Run(fmt.Sprintf("%s, %s before %s, %s goes first", protocol, order[0].word, order[1].word, first), func(t *testing.T) {
					n, g := newPair(t, Config{MachineIP: machine})
					port := freeOn(t)
					bound := map[string]*Binding{}
					for _, one := range order {
						guest := freeOn(t)
						g.listen(guest, func(c *gonet.TCPConn) {
							_, _ = c.Read(make([]byte, 1))
							_, _ = io.WriteString(c, one.word)
							_ = c.Close()
						})
						g.listenUDP(guest, func([]byte, net.Addr) []byte { return []byte(one.word) })
						b, err := n.Publish(Publication{Protocol: protocol, HostIP: one.hostIP, Port: port, Guest: guest, Firm: true})
						if err != nil {
							t.Fatal(err)
						}
						bound[one.word] = b
					}
					answers := func(when string, want map[netip.Addr]string) {
						t.Helper()
						for _, addr := range []netip.Addr{loopback4, machine} {
							got := answerAt(t, protocol, netip.AddrPortFrom(addr, port))
							if got != want[addr] {
								t.Errorf("%s: %s says %q, want %q", when, addr, got, want[addr])
							}
						}
					}
					answers("both", map[netip.Addr]string{loopback4: "q1", machine: "q2"})
					bound[first].Close()
					if first == "q1" {
						answers("q2 alone", map[netip.Addr]string{machine: "q2"})
					} else {
						answers("q1 alone", map[netip.Addr]string{loopback4: "q1", machine: "q1"})
					}
					for _, b := range bound {
						b.Close()
					}
					if ports := n.Ports(); len(ports) != 0 {
						t.Errorf("ports left: %v", ports)
					}
				})
			}
		}
	}
}

// What is refused leaves an extra where it was, with its connections.
func TestRefusedLeavesExtras(t *testing.T) {
	machine := machineIP(t.Name())
	if machine == loopback4 {
		t.Skip("this platform has one loopback address")
	}
	n, g := newPair(t, Config{MachineIP: machine})
	port, other := freeOn(t), freeOn(t)
	g.listen(port, echo)
	publish(t, n, "tcp", "127.0.0.1", port)
	address := bindKey{"tcp", netip.AddrPortFrom(machine, port)}
	before := n.ports.ports[address].listener
	for _, hostIP := range []string{"", "0.0.0.0", "127.0.0.1"} {
		if _, err := n.Publish(Publication{Protocol: "tcp", HostIP: hostIP, Port: port, Guest: other, Firm: true}); err == nil {
			t.Errorf("localhost is given twice, to %q", hostIP)
		}
	}
	if n.ports.ports[address].listener != before {
		t.Error("a refusal has moved the extra")
	}
	named, err := n.Publish(Publication{Protocol: "tcp", HostIP: machine.String(), Port: port, Guest: other, Firm: true})
	if err != nil {
		t.Fatal(err)
	}
	defer named.Close()
	if _, err := n.Publish(Publication{Protocol: "tcp", HostIP: machine.String(), Port: port, Guest: freeOn(t), Firm: true}); err == nil || !strings.Contains(err.Error(), "another container of this machine") {
		t.Errorf("an address is given twice by name: %v", err)
	}
}

// answerAt is what a port says, or nothing if nobody is there.
func answerAt(t *testing.T, protocol string, addr netip.AddrPort) string {
	t.Helper()
	c, err := net.Dial(protocol, addr.String())
	if err != nil {
		return ""
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(5 * time.Second))
	_, _ = c.Write([]byte("?"))
	b := make([]byte, 16)
	n, _ := c.Read(b)
	return string(b[:n])
}
