package network

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime/debug"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
)

const (
	mostMemory = 128 << 20 // that no number of connections may exceed
	restMemory = 32 << 20  // that may stay a minute after their end
)

// TestMain is also the process whose memory is measured: a network, as a supervisor has it.
func TestMain(m *testing.M) {
	path := os.Getenv("NETWORK_TEST_SOCKET")
	if path == "" {
		os.Exit(m.Run())
	}
	debug.SetMemoryLimit(MemoryLimit)
	n, err := New(Config{})
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	port, _ := strconv.ParseUint(os.Getenv("NETWORK_TEST_PORT"), 10, 16)
	for _, protocol := range []string{"tcp", "udp"} {
		if _, err := n.Publish(Publication{Protocol: protocol, HostIP: "127.0.0.1", Port: uint16(port)}); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
	}
	go n.Serve(context.Background(), l)
	fmt.Println("ready")
	io.Copy(io.Discard, os.Stdin)
}

// A measured network runs in a process of its own.
type measured struct {
	pid  int
	base int64 // bytes, before anything
	peak int64
	port uint16 // published, TCP and UDP
	g    *guest
}

// takesLong skips a test unless there is time for it.
func takesLong(t *testing.T) {
	t.Helper()
	if testing.Short() {
		t.Skip("takes long: without -short")
	}
}

func measure(t *testing.T) *measured {
	t.Helper()
	m := &measured{port: freeOn(t)}
	path := filepath.Join(t.TempDir(), "n")
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), "NETWORK_TEST_SOCKET="+path, fmt.Sprintf("NETWORK_TEST_PORT=%d", m.port))
	cmd.Stderr = os.Stderr
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { stdin.Close(); cmd.Process.Kill(); cmd.Wait() })
	b := make([]byte, 6)
	if _, err := io.ReadFull(stdout, b); err != nil {
		t.Fatal(err)
	}
	m.pid = cmd.Process.Pid
	m.g = newGuest(t, path, DefaultMTU)
	small := tcpip.TCPSendBufferSizeRangeOption{Min: 4 << 10, Default: 64 << 10, Max: 64 << 10}
	m.g.stack.SetTransportProtocolOption(tcp.ProtocolNumber, &small)
	if m.base = m.resident(); m.base == 0 {
		t.Skip("this system does not tell a process' memory")
	}
	return m
}

func (m *measured) resident() int64 {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", m.pid))
	if err != nil {
		return 0
	}
	_, rest, _ := strings.Cut(string(data), "VmRSS:")
	kib, _ := strconv.ParseInt(strings.Fields(rest)[0], 10, 64)
	return kib << 10
}

// while runs attack and notes the most memory meanwhile and for some time after.
func (m *measured) while(attack func()) {
	done := make(chan struct{})
	go func() { defer close(done); attack(); time.Sleep(3 * time.Second) }()
	for {
		select {
		case <-done:
			return
		case <-time.After(50 * time.Millisecond):
			m.peak = max(m.peak, m.resident()-m.base)
		}
	}
}

func (m *measured) check(t *testing.T) {
	t.Helper()
	t.Logf("%s %d MiB (at most %d), from %d", t.Name(), m.peak>>20, mostMemory>>20, m.base>>20)
	if m.peak > mostMemory {
		t.Errorf("%d MiB more, at most %d", m.peak>>20, mostMemory>>20)
	}
}

// givenBack waits for the memory to come back.
func (m *measured) givenBack(t *testing.T) {
	t.Helper()
	start := time.Now()
	for m.resident()-m.base > restMemory {
		if time.Since(start) > time.Minute {
			t.Errorf("%d MiB are left after a minute", (m.resident()-m.base)>>20)
			return
		}
		time.Sleep(100 * time.Millisecond)
	}
	t.Logf("given back after %v", time.Since(start).Round(time.Second))
}

// lazy is a server on the host that does to each connection what serve does, and does
// not read.
func lazy(t *testing.T, serve func(net.Conn)) string {
	t.Helper()
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	var all []net.Conn
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			c.(*net.TCPConn).SetReadBuffer(4 << 10)
			mu.Lock()
			all = append(all, c)
			mu.Unlock()
			go serve(c)
		}
	}()
	t.Cleanup(func() {
		l.Close()
		mu.Lock()
		defer mu.Unlock()
		for _, c := range all {
			c.Close()
		}
	})
	return fmt.Sprintf("%s:%d", HostIP, l.Addr().(*net.TCPAddr).Port)
}

func pour(c net.Conn) { pieces(c, 64<<10) }

// pieces writes until nothing goes for a while.
func pieces(c net.Conn, size int) {
	b := make([]byte, size)
	for {
		_ = c.SetWriteDeadline(time.Now().Add(2 * time.Second))
		if _, err := c.Write(b); err != nil {
			return
		}
	}
}

// flood makes connections with dial, several at a time, and runs use on each.
func flood(count int, dial func() (net.Conn, error), use func(net.Conn)) (made int64) {
	var wg sync.WaitGroup
	var n atomic.Int64
	tokens := make(chan struct{}, 64)
	for range count {
		tokens <- struct{}{}
		wg.Go(func() {
			c, err := dial()
			<-tokens
			if err == nil {
				n.Add(1)
				use(c)
			}
		})
	}
	wg.Wait()
	return n.Load()
}

func TestMemoryOfConnectionsNobodyReads(t *testing.T) {
	idle := func(net.Conn) {}
	for _, c := range []struct {
		name  string
		count int
		guest func(net.Conn) // what the guest does
		host  func(net.Conn)
	}{
		{"400 from the guest", 400, pour, idle},
		{"4000 from the guest", 4000, pour, idle},
		{"400 to the guest", 400, idle, pour},
		{"4000 both ways", 4000, pour, pour},
		{"1000 from the guest in bytes", 1000, func(c net.Conn) { pieces(c, 1) }, idle},
		{"1000 to the guest in bytes", 1000, idle, func(c net.Conn) { c.(*net.TCPConn).SetNoDelay(true); pieces(c, 1) }},
	} {
		t.Run(c.name, func(t *testing.T) {
			if c.name != "400 to the guest" {
				takesLong(t)
			}
			m := measure(t)
			addr := lazy(t, c.host)
			m.while(func() {
				made := flood(c.count, func() (net.Conn, error) { return m.g.dial(addr) }, c.guest)
				t.Logf("%d connections", made)
			})
			m.check(t)
			m.g.reset()
			m.givenBack(t)
		})
	}
}

// padded makes frames a hundred times longer than the packets in them, as the guest's root
// can send them, and has them wait for one that never comes.
func padded() func(frame []byte) []byte {
	first := map[uint16]uint32{} // number of the first byte, by port
	return func(frame []byte) []byte {
		if !isTCP(frame) {
			return frame
		}
		segment := header.TCP(header.IPv4(frame[header.EthernetMinimumSize:]).Payload())
		if segment.Flags().Contains(header.TCPFlagSyn) {
			first[segment.SourcePort()] = segment.SequenceNumber() + 1
		} else if len(segment.Payload()) > 0 && segment.SequenceNumber() == first[segment.SourcePort()] {
			return frame[:header.EthernetMinimumSize] // lost
		}
		return append(frame, make([]byte, DefaultMTU-len(frame))...)
	}
}

func TestMemoryOfPaddedFrames(t *testing.T) {
	takesLong(t)
	m := measure(t)
	addr := lazy(t, func(net.Conn) {})
	m.g.change = padded()
	m.while(func() {
		made := flood(1500, func() (net.Conn, error) { return m.g.dial(addr) }, func(c net.Conn) { pieces(c, smallSegment) })
		t.Logf("%d connections", made)
	})
	m.check(t)
	m.g.reset()
	m.givenBack(t)
}

// TestMemoryOfAllAtOnce is of the other tests' traffic, together.
func TestMemoryOfAllAtOnce(t *testing.T) {
	takesLong(t)
	m := measure(t)
	port, pouring, ending := freeOn(t), lazy(t, pour), lazy(t, func(c net.Conn) { c.Close() })
	var clients clients
	m.g.change = func(frame []byte) []byte {
		if len(frame) >= smallSegment || !isTCP(frame) {
			return frame
		}
		return append(frame, make([]byte, DefaultMTU-len(frame))...)
	}
	m.g.listen(m.port, func(c *gonet.TCPConn) { pour(c) })
	m.while(func() {
		var all sync.WaitGroup
		for _, attack := range []func(){
			func() { flood(2000, func() (net.Conn, error) { return m.g.dial(pouring) }, pour) },
			func() {
				flood(2000, func() (net.Conn, error) { return m.g.dial(pouring) }, func(c net.Conn) { pieces(c, smallSegment) })
			},
			func() { flood(2000, func() (net.Conn, error) { return clients.dial(m.port) }, pour) },
			func() { m.datagrams(port) },
			func() {
				flood(10_000, func() (net.Conn, error) { return m.g.dial(ending) }, func(c net.Conn) { io.Copy(io.Discard, c); c.Close() })
			},
		} {
			all.Go(attack)
		}
		all.Wait()
	})
	m.check(t)
	clients.close()
	m.g.reset()
	m.givenBack(t)
}

// TestMemoryOfADeadContainer is a container whose network is gone without a word.
func TestMemoryOfADeadContainer(t *testing.T) {
	takesLong(t)
	m := measure(t)
	addr := lazy(t, pour)
	m.while(func() { flood(1000, func() (net.Conn, error) { return m.g.dial(addr) }, pour) })
	m.check(t)
	m.g.deaf.Store(true)
	m.givenBack(t)
}

// clients are the host's own, of a published port, and do not read.
type clients struct {
	mu  sync.Mutex
	all []net.Conn
}

func (c *clients) dial(port uint16) (net.Conn, error) {
	conn, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", port))
	if err != nil {
		return nil, err
	}
	conn.(*net.TCPConn).SetReadBuffer(4 << 10)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.all = append(c.all, conn)
	return conn, nil
}

func (c *clients) close() {
	for _, conn := range c.all {
		conn.Close()
	}
}

func TestMemoryOfPublishedPorts(t *testing.T) {
	takesLong(t)
	m := measure(t)
	m.g.listen(m.port, func(c *gonet.TCPConn) { pour(c) })
	var clients clients
	m.while(func() { flood(4000, func() (net.Conn, error) { return clients.dial(m.port) }, pour) })
	m.check(t)
	clients.close()
	m.g.reset()
	m.givenBack(t)
}

func TestMemoryOfDatagrams(t *testing.T) {
	takesLong(t)
	m := measure(t)
	m.while(func() { m.datagrams(freeOn(t)) })
	m.check(t)
}

// datagrams sends many to a port of the host, and then to the published one.
func (m *measured) datagrams(port uint16) {
	send := func(c net.Conn) {
		for range 20 {
			c.Write(make([]byte, 60<<10))
		}
	}
	to := fullAddress(fmt.Sprintf("%s:%d", HostIP, port))
	flood(4000, func() (net.Conn, error) { return gonet.DialUDP(m.g.stack, nil, &to, header.IPv4ProtocolNumber) }, send)
	host := fmt.Sprintf("127.0.0.1:%d", m.port)
	flood(4000, func() (net.Conn, error) { return net.Dial("udp", host) }, func(c net.Conn) { defer c.Close(); send(c) })
}

// TestMemoryOfBriefConnections is of connections that the host ends at once, of which TCP
// remembers each for some time.
func TestMemoryOfBriefConnections(t *testing.T) {
	takesLong(t)
	m := measure(t)
	var addrs []string
	for range 30 { // so that the guest's ports are not used up
		addrs = append(addrs, lazy(t, func(c net.Conn) { c.Close() }))
	}
	m.while(func() {
		var next atomic.Int64
		made := flood(40_000, func() (net.Conn, error) {
			return m.g.dial(addrs[int(next.Add(1))%len(addrs)])
		}, func(c net.Conn) { io.Copy(io.Discard, c); c.Close() })
		t.Logf("%d connections", made)
	})
	m.check(t)
	m.givenBack(t)
}

// reset ends every connection of the guest, as the end of its programs does.
func (g *guest) reset() {
	for _, ep := range g.stack.RegisteredEndpoints() {
		if e, ok := ep.(*tcp.Endpoint); ok {
			e.Abort()
		}
	}
}
