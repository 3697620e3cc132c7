package network

import (
	"bufio"
	"context"
	"encoding/binary"
	"io"
	"net"
	"net/netip"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/link/channel"
	"gvisor.dev/gvisor/pkg/tcpip/link/ethernet"
	"gvisor.dev/gvisor/pkg/tcpip/network/arp"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/icmp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/udp"
)

// A guest is another stack at the other end of the wire: the kernel of a
// VM, for what matters here.
type guest struct {
	t      testing.TB
	stack  *stack.Stack
	cable  cable
	deaf   atomic.Bool               // TCP neither comes nor goes
	change func(frame []byte) []byte // what is sent in its place; may be nil
}

// isTCP tells whether a frame is of TCP.
func isTCP(frame []byte) bool {
	return header.Ethernet(frame).Type() == header.IPv4ProtocolNumber &&
		header.IPv4(frame[header.EthernetMinimumSize:]).TransportProtocol() == header.TCPProtocolNumber
}

// newNetwork makes a network that serves on a socket, whose path it returns.
func newNetwork(t testing.TB, config Config) (*Network, string) {
	t.Helper()
	n, err := New(config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = n.Close() })
	path := filepath.Join(t.TempDir(), "net.sock")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	ctx := t.Context()
	go func() { done <- n.Serve(ctx, l) }()
	t.Cleanup(func() {
		_ = n.Close()
		if err := <-done; err != nil {
			t.Errorf("Serve: %v", err)
		}
	})
	return n, path
}

// newPair makes a network and a guest that is connected to it.
func newPair(t testing.TB, config Config) (*Network, *guest) {
	t.Helper()
	n, path := newNetwork(t, config)
	g := newGuest(t, path, n.MTU())
	eventually(t, "connected", n.Connected)
	return n, g
}

func newGuest(t testing.TB, path string, mtu int) *guest {
	t.Helper()
	conn, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	return newGuestOn(t, streamCable{conn, bufio.NewReaderSize(conn, 1<<20)}, mtu)
}

// A cable is the hypervisor's end of the wire.
type cable interface {
	io.Closer
	writeFrame(frame []byte) error
	readFrame() ([]byte, error)
}

type streamCable struct {
	net.Conn
	in *bufio.Reader
}

func (c streamCable) writeFrame(frame []byte) error {
	_, err := c.Write(append(binary.BigEndian.AppendUint32(make([]byte, 0, 4+len(frame)), uint32(len(frame))), frame...))
	return err
}

func (c streamCable) readFrame() ([]byte, error) {
	var head [4]byte
	if _, err := io.ReadFull(c.in, head[:]); err != nil {
		return nil, err
	}
	frame := make([]byte, binary.BigEndian.Uint32(head[:]))
	_, err := io.ReadFull(c.in, frame)
	return frame, err
}

func newGuestOn(t testing.TB, cable cable, mtu int) *guest {
	t.Helper()
	mac, _ := net.ParseMAC(GuestMAC)
	card := channel.New(4096, uint32(mtu+header.EthernetMinimumSize), tcpip.LinkAddress(mac))
	s := stack.New(stack.Options{
		NetworkProtocols:   []stack.NetworkProtocolFactory{ipv4.NewProtocol, arp.NewProtocol},
		TransportProtocols: []stack.TransportProtocolFactory{tcp.NewProtocol, udp.NewProtocol, icmp.NewProtocol4},
	})
	if err := s.CreateNIC(1, ethernet.New(card)); err != nil {
		t.Fatal(err)
	}
	addr := netip.MustParsePrefix(GuestCIDR)
	if err := s.AddProtocolAddress(1, tcpip.ProtocolAddress{
		Protocol: ipv4.ProtocolNumber,
		AddressWithPrefix: tcpip.AddressWithPrefix{
			Address: tcpip.AddrFrom4(addr.Addr().As4()), PrefixLen: addr.Bits(),
		},
	}, stack.AddressProperties{}); err != nil {
		t.Fatal(err)
	}
	s.SetRouteTable([]tcpip.Route{
		{Destination: tcpipSubnet(subnet), NIC: 1},
		{Destination: header.IPv4EmptySubnet, Gateway: tcpip.AddrFrom4(gatewayIP.As4()), NIC: 1},
	})
	g := &guest{t: t, stack: s, cable: cable}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{}, 2)
	go func() { g.send(ctx, card); done <- struct{}{} }()
	go func() { g.receive(card); done <- struct{}{} }()
	t.Cleanup(func() {
		cancel()
		_ = cable.Close()
		<-done
		<-done
		s.Destroy()
	})
	return g
}

func (g *guest) send(ctx context.Context, card *channel.Endpoint) {
	for {
		pkt := card.ReadContext(ctx)
		if pkt == nil {
			return
		}
		frame := pkt.ToView().AsSlice()
		if g.deaf.Load() && isTCP(frame) {
			pkt.DecRef()
			continue
		}
		if g.change != nil {
			frame = g.change(frame)
		}
		err := g.cable.writeFrame(frame)
		pkt.DecRef()
		if err != nil {
			return
		}
	}
}

func (g *guest) receive(card *channel.Endpoint) {
	for {
		frame, err := g.cable.readFrame()
		if err != nil {
			return
		}
		if g.deaf.Load() && isTCP(frame) {
			continue
		}
		pkt := stack.NewPacketBuffer(stack.PacketBufferOptions{Payload: buffer.MakeWithData(frame)})
		card.InjectInbound(0, pkt)
		pkt.DecRef()
	}
}

func fullAddress(addr string) tcpip.FullAddress {
	a := netip.MustParseAddrPort(addr)
	return tcpip.FullAddress{NIC: 1, Addr: tcpip.AddrFrom4(a.Addr().As4()), Port: a.Port()}
}

// listen is a TCP server in the guest; serve runs for every connection.
func (g *guest) listen(port uint16, serve func(*gonet.TCPConn)) {
	g.t.Helper()
	l, err := gonet.ListenTCP(g.stack, tcpip.FullAddress{NIC: 1, Port: port}, ipv4.ProtocolNumber)
	if err != nil {
		g.t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go serve(c.(*gonet.TCPConn))
		}
	}()
	g.t.Cleanup(func() { l.Shutdown(); l.Close(); <-done })
}

// dial connects from the guest.
func (g *guest) dial(addr string) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	return gonet.DialContextTCP(ctx, g.stack, fullAddress(addr), ipv4.ProtocolNumber)
}

// dialUDP is a connected UDP socket of the guest.
func (g *guest) dialUDP(addr string) net.Conn {
	g.t.Helper()
	to := fullAddress(addr)
	c, err := gonet.DialUDP(g.stack, nil, &to, ipv4.ProtocolNumber)
	if err != nil {
		g.t.Fatal(err)
	}
	g.t.Cleanup(func() { _ = c.Close() })
	return c
}

// listenUDP is a UDP server in the guest that answers every datagram.
func (g *guest) listenUDP(port uint16, answer func([]byte, net.Addr) []byte) {
	g.t.Helper()
	c, err := gonet.DialUDP(g.stack, &tcpip.FullAddress{NIC: 1, Port: port}, nil, ipv4.ProtocolNumber)
	if err != nil {
		g.t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		b := make([]byte, 64<<10)
		for {
			n, from, err := c.ReadFrom(b)
			if err != nil {
				return
			}
			_, _ = c.WriteTo(answer(b[:n], from), from)
		}
	}()
	g.t.Cleanup(func() { _ = c.Close(); <-done })
}

// echo sends back what it gets, until the other side ends.
func echo(c *gonet.TCPConn) {
	defer c.Close()
	_, _ = io.Copy(c, c)
}

func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not %s after 10 s", what)
		}
	}
}
