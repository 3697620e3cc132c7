package network

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/network/arp"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/icmp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/udp"
	"gvisor.dev/gvisor/pkg/waiter"
)

// nic is the number of the stack's one card.
const nic = 1

// newStack makes a stack that has the gateway's address and takes every packet
// as its own.
func newStack(l *link) (*stack.Stack, error) {
	s := stack.New(stack.Options{
		NetworkProtocols:   []stack.NetworkProtocolFactory{ipv4.NewProtocol, arp.NewProtocol},
		TransportProtocols: []stack.TransportProtocolFactory{tcp.NewProtocol, udp.NewProtocol, icmp.NewProtocol4},
	})
	err := configureStack(s, l)
	if err != nil {
		s.Destroy()
		return nil, err
	}
	return s, nil
}

func configureStack(s *stack.Stack, l *link) error {
	sack := tcpip.TCPSACKEnabled(true)
	if err := s.SetTransportProtocolOption(tcp.ProtocolNumber, &sack); err != nil {
		return fmt.Errorf("enabling selective acknowledgements: %s", err)
	}
	if err := setBuffers(s); err != nil {
		return fmt.Errorf("setting the sizes of buffers: %s", err)
	}
	if err := s.CreateNIC(nic, l); err != nil {
		return fmt.Errorf("creating the gateway's card: %s", err)
	}
	for _, a := range []netip.Addr{gatewayIP, hostIP} { // those that answer pings
		if err := s.AddProtocolAddress(nic, tcpip.ProtocolAddress{
			Protocol:          ipv4.ProtocolNumber,
			AddressWithPrefix: tcpip.AddrFrom4(a.As4()).WithPrefix(),
		}, stack.AddressProperties{}); err != nil {
			return fmt.Errorf("giving the gateway its addresses: %s", err)
		}
	}
	s.SetSpoofing(nic, true)
	s.SetPromiscuousMode(nic, true)
	s.SetRouteTable([]tcpip.Route{{Destination: tcpipSubnet(subnet), NIC: nic}})
	// The guest's address is a constant, so a dial never has to wait for ARP,
	// which a guest that was just thawed answers late.
	if err := s.AddStaticNeighbor(nic, ipv4.ProtocolNumber, tcpip.AddrFrom4(guestIP.As4()), mustLinkAddress(GuestMAC)); err != nil {
		return fmt.Errorf("noting the guest's MAC: %s", err)
	}
	return nil
}

func tcpipSubnet(p netip.Prefix) tcpip.Subnet {
	return tcpip.AddressWithPrefix{
		Address:   tcpip.AddrFrom4(p.Addr().As4()),
		PrefixLen: p.Bits(),
	}.Subnet()
}

func mustLinkAddress(mac string) tcpip.LinkAddress {
	hw, err := net.ParseMAC(mac)
	if err != nil {
		panic(err) // a constant of this package
	}
	return tcpip.LinkAddress(hw)
}

// guestAddress is a port of the guest.
func guestAddress(port uint16) tcpip.FullAddress {
	return tcpip.FullAddress{NIC: nic, Addr: tcpip.AddrFrom4(guestIP.As4()), Port: port}
}

// A guestConn is a TCP connection with the guest.
type guestConn struct {
	*gonet.TCPConn
	ep      tcpip.Endpoint
	wq      *waiter.Queue
	network *Network
	traffic *traffic
	asked   atomic.Bool // the host has spoken last
	sizes   sizes
	release func() // gives everything back; idempotent

	key    connKey
	member *member // among the guest's own connections; nil for others

	moved  atomic.Int64 // when something moved last, since traffic.began
	heard  atomic.Bool  // of the guest, since the warden looked last
	stuck  atomic.Int32 // directions in which it waits for a reader
	looked look         // the warden's
}

func (n *Network) newGuestConn(ep tcpip.Endpoint, wq *waiter.Queue) *guestConn {
	keepAlive(ep, false)
	ep.SocketOptions().SetSendBufferSize(minBuffer, true)
	c := &guestConn{TCPConn: gonet.NewTCPConn(wq, ep), ep: ep, wq: wq, network: n, traffic: &n.traffic}
	c.sizes.init(&n.pool)
	c.release = sync.OnceFunc(func() {
		n.conns.remove(c)
		c.sizes.giveBack()
	})
	n.conns.add(c)
	c.touch()
	return c
}

// touch notes that something moved.
func (c *guestConn) touch() {
	c.traffic.touch()
	c.moved.Store(c.traffic.last.Load())
	if c.member != nil {
		c.member.touch()
	}
}

func (c *guestConn) Read(b []byte) (int, error) {
	read, err := c.TCPConn.Read(b)
	if read > 0 {
		c.spoke(false)
		c.received(read)
	}
	return read, err
}

func (c *guestConn) Write(b []byte) (int, error) {
	c.spoke(true)
	c.filled(len(b))
	return c.TCPConn.Write(b)
}

func (c *guestConn) Close() error {
	c.spoke(false)
	c.release()
	return c.TCPConn.Close()
}

// spoke notes who has spoken last, the host or the guest.
func (c *guestConn) spoke(host bool) {
	c.touch()
	if c.asked.Swap(host) == host {
		return
	}
	if host {
		c.traffic.asked.Add(1)
	} else {
		c.traffic.asked.Add(-1)
	}
}

// abort ends the connection with a reset.
func (c *guestConn) abort() {
	c.spoke(false)
	c.release()
	c.ep.Abort()
}

// DialGuest connects to a TCP port of the guest. The connection has CloseWrite,
// as *net.TCPConn has. The error is ErrNoGuest while no VM is connected, that
// of ctx, or a *net.OpError ("connection refused"). The guest sees it come from HostIP.
func (n *Network) DialGuest(ctx context.Context, port uint16) (net.Conn, error) {
	c, err := n.dialGuest(ctx, port, hostIP)
	if err != nil {
		return nil, fmt.Errorf("connecting to port %d of the guest: %w", port, err)
	}
	return c, nil
}

// dialGuest connects to a port of the guest, which sees it come from that address: what
// only this user can ask for comes from HostIP, all else from GatewayIP, so that the guest
// can count them apart.
func (n *Network) dialGuest(ctx context.Context, port uint16, from netip.Addr) (*guestConn, error) {
	if n.ctx.Err() != nil {
		return nil, ErrClosed
	}
	if !n.link.connected() && !n.held() {
		return nil, ErrNoGuest
	}
	var wq waiter.Queue
	ep, terr := n.stack.NewEndpoint(tcp.ProtocolNumber, ipv4.ProtocolNumber, &wq)
	if terr != nil {
		return nil, dialError(port, terr)
	}
	if terr := ep.Bind(tcpip.FullAddress{NIC: nic, Addr: tcpip.AddrFrom4(from.As4())}); terr != nil {
		ep.Close()
		return nil, dialError(port, terr)
	}
	entry, ready := waiter.NewChannelEntry(waiter.WritableEvents | waiter.EventErr | waiter.EventHUp)
	wq.EventRegister(&entry)
	defer wq.EventUnregister(&entry)
	terr = ep.Connect(guestAddress(port))
	if _, started := terr.(*tcpip.ErrConnectStarted); started {
		select {
		case <-ready:
			terr = ep.LastError()
		case <-ctx.Done():
			ep.Abort()
			return nil, ctx.Err()
		case <-n.ctx.Done():
			ep.Abort()
			return nil, ErrClosed
		}
	}
	if terr != nil {
		ep.Close()
		return nil, dialError(port, terr)
	}
	return n.newGuestConn(ep, &wq), nil
}

func dialError(port uint16, err tcpip.Error) error {
	return &net.OpError{
		Op:   "dial",
		Net:  "tcp",
		Addr: net.TCPAddrFromAddrPort(netip.AddrPortFrom(guestIP, port)),
		Err:  errors.New(err.String()),
	}
}

// resetConnections ends the TCP connections of a guest that is gone. What
// listens stays.
func (n *Network) resetConnections() {
	for _, ep := range n.stack.RegisteredEndpoints() {
		e, ok := ep.(*tcp.Endpoint)
		if ok && e.EndpointState() != tcp.StateListen {
			e.Abort()
		}
	}
}

// gatewayAddress is a port of the gateway.
func gatewayAddress(port uint16) tcpip.FullAddress {
	return tcpip.FullAddress{NIC: nic, Addr: tcpip.AddrFrom4(gatewayIP.As4()), Port: port}
}

func addrOf(a tcpip.Address) netip.Addr {
	if a.Len() != header.IPv4AddressSize {
		return netip.Addr{}
	}
	return netip.AddrFrom4(a.As4())
}
