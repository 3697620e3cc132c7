package publish

import (
	"encoding/binary"
	"net/netip"
	"strings"
)

// A listener is a socket of the guest's own network that waits for anybody.
type listener struct {
	protocol string // "tcp", "udp", "udplite", "sctp"
	address  netip.AddrPort
	only6    bool   // of "::", not for IPv4
	twin     bool   // there is one of "0.0.0.0" with the same port
	device   uint32 // the only one that it listens on, by its number; 0 is all
	cookie   uint64 // the kernel's number of the socket
}

// Layout of struct inet_diag_msg and of the attribute that says whether a socket of IPv6
// takes IPv4 as well; linux/inet_diag.h.
const (
	diagSize     = 72
	diagPort     = 4 // in the network's order, like the address
	diagAddress  = 8
	diagDevice   = 40
	diagCookie   = 44
	diagSKV6Only = 11

	familyIPv4 = 2 // AF_INET
	familyIPv6 = 10
)

// parseListener reads one answer of the kernel's socket diagnosis.
func parseListener(protocol string, b []byte) (l listener, ok bool) {
	if len(b) < diagSize {
		return l, false
	}
	port := binary.BigEndian.Uint16(b[diagPort:])
	var ip netip.Addr
	switch b[0] {
	case familyIPv4:
		ip = netip.AddrFrom4([4]byte(b[diagAddress:]))
	case familyIPv6:
		ip = netip.AddrFrom16([16]byte(b[diagAddress:]))
	default:
		return l, false
	}
	l = listener{protocol: protocol, address: netip.AddrPortFrom(ip, port),
		device: binary.NativeEndian.Uint32(b[diagDevice:]), cookie: binary.NativeEndian.Uint64(b[diagCookie:])}
	for attrs := b[diagSize:]; len(attrs) >= 4; {
		size := int(binary.NativeEndian.Uint16(attrs))
		if size < 4 || size > len(attrs) {
			break
		}
		if kind := binary.NativeEndian.Uint16(attrs[2:]); kind == diagSKV6Only && size > 4 {
			l.only6 = attrs[4] != 0
		}
		attrs = attrs[min((size+3)&^3, len(attrs)):]
	}
	return l, port != 0
}

// A portRange is a range of ports, both ends in it; empty if it begins at 0.
type portRange struct{ first, last uint16 }

func (r portRange) has(port uint16) bool { return r.first != 0 && r.first <= port && port <= r.last }

// isClient tells whether the socket is a client's: of UDP, at a port that the kernel has
// chosen. asked tells which port was asked for.
func (l listener) isClient(ephemeral portRange, asked func(cookie uint64) uint16) bool {
	port := l.address.Port()
	return strings.HasPrefix(l.protocol, "udp") && ephemeral.has(port) && asked(l.cookie) != port
}

// isElsewhere tells whether the socket is bound to a device on which the host does not come:
// a DHCP server's of a bridge, for example. isCard tells whether a device is the card.
func (l listener) isElsewhere(isCard func(device uint32) bool) bool {
	return l.device != 0 && !isCard(l.device)
}

// withTwins notes of listeners which have one of IPv4 beside them: a service that opens a
// socket for each family. The host reaches the guest by IPv4 alone.
func withTwins(all []listener) []listener {
	type served struct {
		protocol string
		port     uint16
	}
	ipv4 := map[served]bool{}
	for _, l := range all {
		if l.address.Addr() == netip.IPv4Unspecified() {
			ipv4[served{l.protocol, l.address.Port()}] = true
		}
	}
	for i, l := range all {
		all[i].twin = l.only6 && ipv4[served{l.protocol, l.address.Port()}]
	}
	return all
}

// wanted is how a listener is published, if it is: on all addresses of the host where it
// has all of the guest's, or that of its card. One of the guest's loopback, or of a network
// of containers, is nobody's but the guest's. What listens on IPv6 alone needs a relay.
func (l listener) wanted(card netip.Addr) (publication, bool) {
	p := publication{protocol: l.protocol, port: l.address.Port()}
	switch ip := l.address.Addr().Unmap(); {
	case ip == netip.IPv6Unspecified() && !l.only6:
		p.hostIP = "" // both families
	case ip == netip.IPv6Unspecified():
		p.hostIP = "::"
		if !l.twin && (p.protocol == "tcp" || p.protocol == "udp") { // others go nowhere
			p.target = netip.AddrPortFrom(netip.IPv6Loopback(), p.port).String()
		}
	case ip == netip.IPv4Unspecified(), ip == card:
		p.hostIP = "0.0.0.0"
	default:
		return p, false
	}
	return p, true
}
