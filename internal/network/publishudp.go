package network

import (
	"io"
	"net"
	"net/netip"
	"sync"

	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
	"gvisor.dev/gvisor/pkg/tcpip"
	ipv4stack "gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	udpstack "gvisor.dev/gvisor/pkg/tcpip/transport/udp"
	"gvisor.dev/gvisor/pkg/waiter"
)

// A udpPort is a published UDP port: a socket of the host, and a session with
// the guest for every client of it.
type udpPort struct {
	n    *Network
	sock *udpSocket
	port uint16

	mu       sync.Mutex
	closed   bool
	sessions map[udpPeer]*udpSession
}

// A udpPeer is a client, and the address of the host that it has sent to, from
// which its answers must come.
type udpPeer struct {
	client netip.AddrPort
	local  netip.Addr // set on sockets for all addresses only
}

func (n *Network) publishUDP(addr netip.AddrPort) (io.Closer, error) {
	sock, err := listenUDP(addr)
	if err != nil {
		return nil, err
	}
	u := &udpPort{n: n, sock: sock, port: addr.Port(), sessions: map[udpPeer]*udpSession{}}
	if !n.spawn(u.run) {
		_ = sock.conn.Close()
		return nil, ErrClosed
	}
	return u, nil
}

// run passes the clients' datagrams on until the socket is closed.
func (u *udpPort) run() {
	b := make([]byte, 64<<10)
	for {
		n, peer, err := u.sock.receive(b)
		if lasting(err) {
			return
		}
		if err != nil {
			continue
		}
		if s := u.session(peer); s != nil {
			u.n.udp.toGuest(s, b[:n])
		}
	}
}

// session returns the client's session, a new one if need be, or nil if there
// can be none.
func (u *udpPort) session(peer udpPeer) *udpSession {
	u.mu.Lock()
	s := u.sessions[peer]
	closed := u.closed
	u.mu.Unlock()
	if s != nil || closed || !u.n.link.connected() {
		return s
	}
	var wq waiter.Queue
	ep, terr := u.n.stack.NewEndpoint(udpstack.ProtocolNumber, ipv4stack.ProtocolNumber, &wq)
	if terr != nil {
		return nil
	}
	if terr := ep.Connect(guestAddress(u.port)); terr != nil {
		ep.Close()
		return nil
	}
	return u.begin(peer, ep, &wq)
}

func (u *udpPort) begin(peer udpPeer, ep tcpip.Endpoint, wq *waiter.Queue) *udpSession {
	s := u.n.udp.newSession(ep, wq, func() {
		u.mu.Lock()
		defer u.mu.Unlock()
		delete(u.sessions, peer)
	})
	u.mu.Lock()
	u.sessions[peer] = s
	closed := u.closed
	u.mu.Unlock()
	if closed || !u.n.spawn(func() {
		defer s.close()
		u.n.udp.fromGuest(s, func(b []byte) error { return u.sock.send(b, peer) })
	}) {
		s.close()
		return nil
	}
	return s
}

// Close ends the port and its sessions.
func (u *udpPort) Close() error {
	u.mu.Lock()
	u.closed = true
	all := make([]*udpSession, 0, len(u.sessions))
	for _, s := range u.sessions {
		all = append(all, s)
	}
	u.mu.Unlock()
	err := u.sock.conn.Close()
	for _, s := range all {
		s.close()
	}
	return err
}

// A udpSocket knows, if it listens on all addresses, to which of them a
// datagram came.
type udpSocket struct {
	conn *net.UDPConn
	all4 *ipv4.PacketConn
	all6 *ipv6.PacketConn
}

func listenUDP(addr netip.AddrPort) (*udpSocket, error) {
	conn, err := net.ListenUDP(withFamily("udp", addr.Addr()), net.UDPAddrFromAddrPort(addr))
	if err != nil {
		return nil, err
	}
	s := &udpSocket{conn: conn}
	switch {
	case !addr.Addr().IsUnspecified():
	case addr.Addr().Is4():
		s.all4 = ipv4.NewPacketConn(conn)
		err = s.all4.SetControlMessage(ipv4.FlagDst, true)
	default:
		s.all6 = ipv6.NewPacketConn(conn)
		err = s.all6.SetControlMessage(ipv6.FlagDst, true)
	}
	if err != nil {
		_ = conn.Close()
		return nil, err
	}
	return s, nil
}

func (s *udpSocket) receive(b []byte) (int, udpPeer, error) {
	var (
		n     int
		src   net.Addr
		local net.IP
		err   error
	)
	switch {
	case s.all4 != nil:
		var cm *ipv4.ControlMessage
		if n, cm, src, err = s.all4.ReadFrom(b); cm != nil {
			local = cm.Dst
		}
	case s.all6 != nil:
		var cm *ipv6.ControlMessage
		if n, cm, src, err = s.all6.ReadFrom(b); cm != nil {
			local = cm.Dst
		}
	default:
		n, client, err := s.conn.ReadFromUDPAddrPort(b)
		return n, udpPeer{client: client}, err
	}
	if err != nil {
		return 0, udpPeer{}, err
	}
	peer := udpPeer{client: src.(*net.UDPAddr).AddrPort()}
	peer.local, _ = netip.AddrFromSlice(local)
	return n, peer, nil
}

func (s *udpSocket) send(b []byte, peer udpPeer) error {
	var err error
	switch {
	case s.all4 != nil && peer.local.IsValid():
		_, err = s.all4.WriteTo(b, &ipv4.ControlMessage{Src: peer.local.AsSlice()}, net.UDPAddrFromAddrPort(peer.client))
	case s.all6 != nil && peer.local.IsValid():
		_, err = s.all6.WriteTo(b, &ipv6.ControlMessage{Src: peer.local.AsSlice()}, net.UDPAddrFromAddrPort(peer.client))
	default:
		_, err = s.conn.WriteToUDPAddrPort(b, peer.client)
	}
	return err
}
