package network

import (
	"io"
	"net"
	"net/netip"
	"sync"

	"gvisor.dev/gvisor/pkg/tcpip"
	ipv4stack "gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	udpstack "gvisor.dev/gvisor/pkg/tcpip/transport/udp"
	"gvisor.dev/gvisor/pkg/waiter"
)

// A udpPort is a published UDP port: a socket of the host, and a session with
// the guest for every client of it.
type udpPort struct {
	n    *Network
	conn *net.UDPConn
	port uint16

	mu       sync.Mutex
	closed   bool
	sessions map[netip.AddrPort]*udpSession
}

func (n *Network) publishUDP(addr netip.AddrPort, guest uint16) (io.Closer, error) {
	conn, err := net.ListenUDP(withFamily("udp", addr.Addr()), net.UDPAddrFromAddrPort(addr))
	if err != nil {
		return nil, err
	}
	u := &udpPort{n: n, conn: conn, port: guest, sessions: map[netip.AddrPort]*udpSession{}}
	if !n.spawn(u.run) {
		_ = conn.Close()
		return nil, ErrClosed
	}
	return u, nil
}

// run passes the clients' datagrams on until the socket is closed.
func (u *udpPort) run() {
	b := make([]byte, 64<<10)
	for {
		n, client, err := u.conn.ReadFromUDPAddrPort(b)
		if lasting(err) {
			return
		}
		if err != nil {
			continue
		}
		if s := u.session(client); s != nil {
			u.n.udp.toGuest(s, b[:n])
		}
	}
}

// session returns the client's session, a new one if need be, or nil if there
// can be none.
func (u *udpPort) session(client netip.AddrPort) *udpSession {
	u.mu.Lock()
	s := u.sessions[client]
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
	return u.begin(client, ep, &wq)
}

func (u *udpPort) begin(client netip.AddrPort, ep tcpip.Endpoint, wq *waiter.Queue) *udpSession {
	s := u.n.udp.newSession(ep, wq, func() {
		u.mu.Lock()
		defer u.mu.Unlock()
		delete(u.sessions, client)
	})
	u.mu.Lock()
	u.sessions[client] = s
	closed := u.closed
	u.mu.Unlock()
	if closed || !u.n.spawn(func() {
		defer s.close()
		u.n.udp.fromGuest(s, func(b []byte) error {
			_, err := u.conn.WriteToUDPAddrPort(b, client)
			return err
		})
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
	err := u.conn.Close()
	for _, s := range all {
		s.close()
	}
	return err
}
