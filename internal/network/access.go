package network

import (
	"net"
	"net/netip"
	"slices"
)

// HostAccess says which ports of the host's own the guest reaches, TCP and UDP, at
// whatever address of the host: HostIP, which is the host's 127.0.0.1, and those of its
// cards. The zero value is all of them.
type HostAccess struct {
	Restricted bool
	Ports      []uint16 // that are reached nevertheless
}

func (a *HostAccess) allows(port uint16) bool {
	return a == nil || !a.Restricted || slices.Contains(a.Ports, port)
}

// SetHostAccess changes what of the host the guest reaches. Connections and sessions that
// may no longer be are ended.
func (n *Network) SetHostAccess(access HostAccess) {
	n.access.Store(&access)
	for _, c := range n.conns.list() {
		if c.member == nil {
			continue // it was made from the host
		}
		if _, ok := n.destination(netip.AddrFrom4(c.key.dst), c.key.dstPort); !ok {
			c.abort()
		}
	}
	n.udp.closeIf(func(p pair, port uint16) bool {
		_, ok := n.destination(p.dst, port)
		return p.src == guestIP && !ok && p.dst != gatewayIP
	})
}

// destination says where on the host's side the guest's packets to a port of dst go, or
// that they go nowhere. Port 0 stands for what has none.
func (n *Network) destination(dst netip.Addr, port uint16) (netip.Addr, bool) {
	to, ok := n.hostAddress(dst)
	if ok && !n.access.Load().allows(port) && n.isHosts(dst, netip.AddrPortFrom(to, port)) {
		return netip.Addr{}, false
	}
	return to, ok
}

// isHosts tells whether a service of the host's own answers at an address that the guest
// knows as dst.
func (n *Network) isHosts(dst netip.Addr, to netip.AddrPort) bool {
	switch dst {
	case hostIP:
		return true
	case aliasIP: // a service that listens on all addresses of the host does there, too
		return !n.ports.serves(to)
	}
	return isOwn(to.Addr())
}

// isOwn tells whether an address is one of the host's own now: of a card, or one for
// which the host answers itself, since then it would speak from that address, too.
func isOwn(a netip.Addr) bool {
	probe, err := net.DialUDP("udp4", nil, net.UDPAddrFromAddrPort(netip.AddrPortFrom(a, 9))) // sends nothing
	if err == nil {
		defer probe.Close()
		if probe.LocalAddr().(*net.UDPAddr).AddrPort().Addr().Unmap() == a {
			return true
		}
	}
	cards, err := net.InterfaceAddrs()
	return err != nil || slices.ContainsFunc(cards, func(card net.Addr) bool {
		p, ok := card.(*net.IPNet)
		return ok && p.IP.Equal(a.AsSlice())
	})
}
