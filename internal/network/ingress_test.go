package network

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/icmp"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/checksum"
	"gvisor.dev/gvisor/pkg/tcpip/header"
)

func TestHostAddress(t *testing.T) {
	n := &Network{config: Config{MachineIP: netip.MustParseAddr("127.18.0.6")}}
	for addr, want := range map[string]string{
		HostIP:            "127.0.0.1",
		GatewayIP:         "",
		GuestIP:           "",
		"192.168.127.200": "",
		AliasIP:           "127.18.0.6",
		"192.168.128.1":   "192.168.128.1",
		"8.8.8.8":         "8.8.8.8",
		"10.0.0.1":        "10.0.0.1",
		"0.0.0.0":         "",
		"0.1.2.3":         "",
		"127.0.0.1":       "",
		"127.18.0.5":      "",
		"169.254.169.254": "",
		"224.0.0.251":     "",
		"239.255.255.250": "",
		"240.0.0.1":       "",
		"255.255.255.255": "",
		"::1":             "",
		"2001:db8::1":     "",
	} {
		got, ok := n.hostAddress(netip.MustParseAddr(addr))
		if ok != (want != "") || ok && got.String() != want {
			t.Errorf("%s: %s, %t; want %q", addr, got, ok, want)
		}
	}
}

// frame is an Ethernet frame of the guest with an IPv4 packet.
func frame(dst string, protocol tcpip.TransportProtocolNumber, fragment uint16, payload []byte) []byte {
	size := header.EthernetMinimumSize + header.IPv4MinimumSize
	b := append(make([]byte, size), payload...)
	header.Ethernet(b).Encode(&header.EthernetFields{
		SrcAddr: mustLinkAddress(GuestMAC), DstAddr: mustLinkAddress(GatewayMAC), Type: header.IPv4ProtocolNumber,
	})
	header.IPv4(b[header.EthernetMinimumSize:]).Encode(&header.IPv4Fields{
		TotalLength: uint16(header.IPv4MinimumSize + len(payload)), FragmentOffset: fragment, TTL: 64,
		Protocol: uint8(protocol), SrcAddr: tcpip.AddrFrom4(guestIP.As4()), DstAddr: tcpip.AddrFrom4(netip.MustParseAddr(dst).As4()),
	})
	return b
}

func arpFrame(op header.ARPOp, target string) []byte {
	b := make([]byte, header.EthernetMinimumSize+header.ARPSize)
	header.Ethernet(b).Encode(&header.EthernetFields{
		SrcAddr: mustLinkAddress(GuestMAC), DstAddr: header.EthernetBroadcastAddress, Type: header.ARPProtocolNumber,
	})
	h := header.ARP(b[header.EthernetMinimumSize:])
	h.SetIPv4OverEthernet()
	h.SetOp(op)
	copy(h.HardwareAddressSender(), mustLinkAddress(GuestMAC))
	copy(h.ProtocolAddressSender(), guestIP.AsSlice())
	copy(h.ProtocolAddressTarget(), netip.MustParseAddr(target).AsSlice())
	return b
}

func TestIngress(t *testing.T) {
	echo := make([]byte, header.ICMPv4MinimumSize)
	echo[0] = byte(header.ICMPv4Echo)
	unreachable := make([]byte, header.ICMPv4MinimumSize)
	unreachable[0] = byte(header.ICMPv4DstUnreachable)
	some := make([]byte, 40)
	const tcp, udp, icmp = header.TCPProtocolNumber, header.UDPProtocolNumber, header.ICMPv4ProtocolNumber
	for _, test := range []struct {
		name  string
		frame []byte
		want  verdict
	}{
		{"nothing", nil, drop},
		{"half an Ethernet header", make([]byte, 13), drop},
		{"an Ethernet header", frame(HostIP, tcp, 0, nil)[:14], drop},
		{"half an IPv4 header", frame(HostIP, tcp, 0, nil)[:30], drop},
		{"longer than it is", frame(HostIP, tcp, 0, some)[:50], drop},
		{"TCP", frame("8.8.8.8", tcp, 0, some), admit},
		{"UDP", frame("8.8.8.8", udp, 0, some), admit},
		{"a fragment", frame("8.8.8.8", udp, 1480, some), admit},
		{"TCP to the metadata service", frame("169.254.169.254", tcp, 0, some), admit}, // refused later
		{"TCP to loopback", frame("127.0.0.1", tcp, 0, some), drop},
		{"TCP to 0.0.0.0", frame("0.0.0.0", tcp, 0, some), drop},
		{"mDNS", frame("224.0.0.251", udp, 0, some), drop},
		{"broadcast", frame("255.255.255.255", udp, 0, some), drop},
		{"the subnet's broadcast", frame("192.168.127.255", udp, 0, some), drop},
		{"ping of the gateway", frame(GatewayIP, icmp, 0, echo), admit},
		{"ping of the host", frame(HostIP, icmp, 0, echo), admit},
		{"ping of the world", frame("8.8.8.8", icmp, 0, echo), ping},
		{"ping of the metadata service", frame("169.254.169.254", icmp, 0, echo), drop},
		{"ping of a neighbour", frame("192.168.127.3", icmp, 0, echo), drop},
		{"a later part of it", frame("8.8.8.8", icmp, 1480, some), drop},
		{"an error for the world", frame("8.8.8.8", icmp, 0, unreachable), admit},
		{"ARP for the gateway", arpFrame(header.ARPRequest, GatewayIP), admit},
		{"ARP for the host", arpFrame(header.ARPRequest, HostIP), admit},
		{"ARP for the guest itself", arpFrame(header.ARPRequest, GuestIP), drop},
		{"ARP for nobody", arpFrame(header.ARPRequest, "192.168.127.3"), drop},
		{"an ARP reply", arpFrame(header.ARPReply, GatewayIP), admit},
		{"half an ARP request", arpFrame(header.ARPRequest, GatewayIP)[:30], drop},
	} {
		if _, got := ingress(test.frame); got != test.want {
			t.Errorf("%s: verdict %d, want %d", test.name, got, test.want)
		}
	}
}

// FuzzFrames lets a guest send anything: the stack must live.
func FuzzFrames(f *testing.F) {
	f.Add(frame("8.8.8.8", header.UDPProtocolNumber, 0, make([]byte, 40)))
	f.Add(frame(HostIP, header.TCPProtocolNumber, 0, make([]byte, 40)))
	f.Add(frame(GatewayIP, header.ICMPv4ProtocolNumber, 8, make([]byte, 40)))
	f.Add(arpFrame(header.ARPRequest, GatewayIP))
	n, path := newNetwork(f, Config{})
	conn, err := net.Dial("unix", path)
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { _ = conn.Close() })
	eventually(f, "connected", n.Connected)
	go func() { _, _ = io.Copy(io.Discard, conn) }()
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) > maxFrame || len(b) >= 34 && !subnet.Contains(netip.AddrFrom4([4]byte(b[30:34]))) {
			return // the fuzzer shall not talk to the world
		}
		head := binary.BigEndian.AppendUint32(nil, uint32(len(b)))
		if _, err := conn.Write(append(head, b...)); err != nil {
			t.Fatal(err)
		}
		if !n.Connected() {
			t.Fatal("disconnected")
		}
	})
}

// TestGarbage sends frames that no card sends.
func TestGarbage(t *testing.T) {
	n, g := newPair(t, Config{})
	g.listen(80, echo)
	for _, size := range []int{0, 1, 13, 14, 33, 60, maxFrame} {
		msg := append(binary.BigEndian.AppendUint32(nil, uint32(size)), make([]byte, size)...)
		if _, err := g.cable.(streamCable).Write(msg); err != nil {
			t.Fatal(err)
		}
	}
	c, err := n.DialGuest(t.Context(), 80)
	if err != nil {
		t.Fatal(err)
	}
	checkEcho(t, c, 1000)
	if _, err := g.cable.(streamCable).Write(binary.BigEndian.AppendUint32(nil, maxFrame+1)); err != nil {
		t.Fatal(err)
	}
	eventually(t, "disconnected", func() bool { return !n.Connected() })
}

// TestPausedGuest has a guest that reads nothing, as a paused VM, while much is
// sent to it. Nothing may hang: neither new dials nor Close.
func TestPausedGuest(t *testing.T) {
	n, path := newNetwork(t, Config{})
	conn, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	eventually(t, "connected", n.Connected)
	port := freeOn(t)
	defer publish(t, n, "udp", "", port).Close()
	for range 8 { // sessions, each of which fills its own buffer
		u, err := net.Dial("udp", fmt.Sprintf("127.0.0.1:%d", port))
		if err != nil {
			t.Fatal(err)
		}
		for range 20 {
			_, _ = u.Write(make([]byte, 60000))
		}
		_ = u.Close()
	}
	time.Sleep(20 * time.Millisecond)
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	start := time.Now()
	if _, err := n.DialGuest(ctx, 80); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("dialing: %v, want deadline exceeded", err)
	}
	if d := time.Since(start); d > 2*time.Second {
		t.Errorf("dialing took %v", d)
	}
	start = time.Now()
	_ = n.Close()
	if d := time.Since(start); d > 2*time.Second {
		t.Errorf("closing took %v", d)
	}
}

// TestOutboundUDP sends datagrams from the guest to the host and to a closed
// port, and expects sessions to end.
func TestOutboundUDP(t *testing.T) {
	n, g := newPair(t, Config{})
	u, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer u.Close()
	go func() {
		b := make([]byte, 64<<10)
		for {
			size, from, err := u.ReadFrom(b)
			if err != nil {
				return
			}
			_, _ = u.WriteTo([]byte(strings.ToUpper(string(b[:size]))), from)
		}
	}()
	c := g.dialUDP(fmt.Sprintf("%s:%d", HostIP, u.LocalAddr().(*net.UDPAddr).Port))
	for _, s := range []string{"hello", "", strings.Repeat("x", 65507)} {
		if got := ask1(t, c, s); got != strings.ToUpper(s) {
			t.Errorf("got %d bytes, want %d", len(got), len(s))
		}
	}
	for _, addr := range []string{"169.254.169.254:53", GatewayIP + ":54"} {
		c := g.dialUDP(addr)
		_, _ = c.Write([]byte("x"))
		eventually(t, "refused", func() bool { // the guest's stack wakes no reader for it
			_ = c.SetReadDeadline(time.Now().Add(time.Millisecond))
			_, err := c.Read(make([]byte, 1))
			return strings.Contains(fmt.Sprint(err), "refused")
		})
	}
	count := func() int {
		n.udp.mu.Lock()
		defer n.udp.mu.Unlock()
		return len(n.udp.sessions)
	}
	if count() != 1 {
		t.Errorf("%d sessions, want 1", count())
	}
	n.udp.mu.Lock()
	for s := range n.udp.sessions {
		s.last.Store(int64(time.Since(n.udp.start) - udpIdle - time.Second))
	}
	n.udp.mu.Unlock()
	n.udp.sweep()
	eventually(t, "swept", func() bool { return count() == 0 })
	if got := ask1(t, c, "again"); got != "AGAIN" {
		t.Errorf("after the session's end: %q", got)
	}
}

func TestSourceChanged(t *testing.T) {
	to := &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 9}
	for from, want := range map[string]bool{"": false, "127.0.0.2": true} {
		if from != "" && machineIP("x") == loopback4 {
			continue // this platform has one loopback address
		}
		c, err := net.DialUDP("udp4", &net.UDPAddr{IP: net.ParseIP(from)}, to)
		if err != nil {
			t.Fatal(err)
		}
		if got := sourceChanged(c); got != want {
			t.Errorf("from %q: %t, want %t", from, got, want)
		}
		_ = c.Close()
	}
}

// TestSessionLimit opens more UDP sessions than there may be.
func TestSessionLimit(t *testing.T) {
	n, g := newPair(t, Config{})
	n.udp.crowd.limit = 5
	port := freeOn(t)
	g.listenUDP(port, func(b []byte, from net.Addr) []byte { return fmt.Append(b, from) })
	defer publish(t, n, "udp", "", port).Close()
	var clients [8]net.Conn
	var sessions [8]string
	for i := range clients {
		c, err := net.Dial("udp", fmt.Sprintf("127.0.0.1:%d", port))
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		clients[i], sessions[i] = c, ask1(t, c, "")
		if got := ask1(t, clients[0], ""); got != sessions[0] { // stays in use
			t.Errorf("the busy session changed from %s to %s", sessions[0], got)
		}
	}
	n.udp.mu.Lock()
	count := len(n.udp.sessions)
	n.udp.mu.Unlock()
	if count != n.udp.crowd.limit {
		t.Errorf("%d sessions, want %d", count, n.udp.crowd.limit)
	}
	if got := ask1(t, clients[1], ""); got == sessions[1] {
		t.Error("the session that was idle for longest is still there")
	}
}

// TestCloseDuringHandshake has a guest that begins a connection and vanishes.
func TestCloseDuringHandshake(t *testing.T) {
	for _, end := range []string{"close", "unplug"} {
		n, path := newNetwork(t, Config{})
		l, err := net.Listen("tcp4", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		conn, err := net.Dial("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		syn := make([]byte, header.TCPMinimumSize)
		header.TCP(syn).Encode(&header.TCPFields{
			SrcPort: 1234, DstPort: uint16(l.Addr().(*net.TCPAddr).Port), SeqNum: 1,
			DataOffset: header.TCPMinimumSize, Flags: header.TCPFlagSyn, WindowSize: 1000,
		})
		b := frame(HostIP, header.TCPProtocolNumber, 0, syn)
		if _, err := conn.Write(append(binary.BigEndian.AppendUint32(nil, uint32(len(b))), b...)); err != nil {
			t.Fatal(err)
		}
		_ = conn.SetReadDeadline(time.Now().Add(5 * time.Second))
		answer, err := readFrame(conn)
		if err != nil || header.TCP(answer[34:]).Flags() != header.TCPFlagSyn|header.TCPFlagAck {
			t.Fatalf("got %x, %v; want SYN and ACK", answer, err)
		}
		start := time.Now()
		host, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		defer host.Close()
		if end == "unplug" {
			_ = conn.Close()
			_ = host.SetReadDeadline(time.Now().Add(2 * time.Second))
			if _, err := host.Read(make([]byte, 1)); errors.Is(err, os.ErrDeadlineExceeded) {
				t.Error("the host's half outlives the guest")
			}
		}
		_ = n.Close()
		if d := time.Since(start); d > 2*time.Second {
			t.Errorf("%s: took %v", end, d)
		}
	}
}

func readFrame(r io.Reader) ([]byte, error) {
	var head [4]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return nil, err
	}
	b := make([]byte, binary.BigEndian.Uint32(head[:]))
	_, err := io.ReadFull(r, b)
	return b, err
}

// TestPing pings an address of the host that is not its loopback, through the
// host's own ICMP, and the gateway.
func TestPing(t *testing.T) {
	_, path := newNetwork(t, Config{})
	conn, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	check := func(dst string) {
		t.Helper()
		request := append(make([]byte, header.ICMPv4MinimumSize), "some data"...)
		h := header.ICMPv4(request)
		h.SetType(header.ICMPv4Echo)
		h.SetIdent(0x1234)
		h.SetSequence(7)
		h.SetChecksum(^checksum.Checksum(h, 0))
		b := frame(dst, header.ICMPv4ProtocolNumber, 0, request)
		ip := header.IPv4(b[header.EthernetMinimumSize:])
		ip.SetChecksum(^ip.CalculateChecksum())
		if _, err := conn.Write(append(binary.BigEndian.AppendUint32(nil, uint32(len(b))), b...)); err != nil {
			t.Fatal(err)
		}
		_ = conn.SetReadDeadline(time.Now().Add(5 * time.Second))
		answer, err := readFrame(conn)
		if err != nil {
			t.Fatalf("%s: %v", dst, err)
		}
		if eth := header.Ethernet(answer); eth.DestinationAddress() != mustLinkAddress(GuestMAC) || eth.Type() != header.IPv4ProtocolNumber {
			t.Errorf("%s: frame %x", dst, answer)
		}
		ip = header.IPv4(answer[header.EthernetMinimumSize:])
		reply := header.ICMPv4(ip.Payload())
		if !ip.IsValid(len(ip)) || !ip.IsChecksumValid() || addrOf(ip.SourceAddress()).String() != dst || addrOf(ip.DestinationAddress()) != guestIP ||
			reply.Type() != header.ICMPv4EchoReply || checksum.Checksum(reply, 0) != 0xffff ||
			reply.Ident() != 0x1234 || reply.Sequence() != 7 || string(reply.Payload()) != "some data" {
			t.Errorf("%s: packet %x", dst, []byte(ip))
		}
	}
	check(GatewayIP)
	check(HostIP)
	c, err := icmp.ListenPacket("udp4", "0.0.0.0")
	if err != nil {
		t.Skipf("the host lets this user not ping: %v", err)
	}
	_ = c.Close()
	ip := hostAddressBeyondLoopback()
	if !ip.IsValid() {
		t.Skip("the host has no address but loopback")
	}
	check(ip.String())
	check(ip.String())
}
