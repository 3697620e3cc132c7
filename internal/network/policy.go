package network

import (
	"net/netip"
	"slices"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
)

// hostAddress says where on the host's side a connection of the guest to dst
// goes, or that it goes nowhere.
func (n *Network) hostAddress(dst netip.Addr) (netip.Addr, bool) {
	switch {
	case dst == hostIP:
		return loopback4, true
	case dst == aliasIP:
		return n.config.MachineIP, true
	case subnet.Contains(dst): // the gateway and its other neighbours are no hosts
		return netip.Addr{}, false
	case !routable(dst):
		return netip.Addr{}, false
	}
	return dst, true
}

// routable tells whether an IPv4 address can be a host beyond the gateway.
func routable(a netip.Addr) bool {
	if !a.Is4() {
		return false
	}
	b := a.As4()
	switch {
	case b[0] == 0: // "this host": a dial to it ends on the host's loopback
		return false
	case a.IsLoopback():
		return false
	case a.IsLinkLocalUnicast(), isMetadata(a):
		return false
	case b[0] >= 224: // multicast, reserved, broadcast
		return false
	}
	return true
}

// metadata are the addresses beyond 169.254.0.0/16 at which clouds tell a machine its
// credentials. The IPv6 one of AWS, fd00:ec2::254, is unreachable as all IPv6 is.
var metadata = []netip.Addr{
	netip.AddrFrom4([4]byte{100, 100, 100, 200}), // Alibaba Cloud
	netip.AddrFrom4([4]byte{168, 63, 129, 16}),   // Azure, "wire server"
	netip.AddrFrom4([4]byte{192, 0, 0, 192}),     // Oracle Cloud, classic
}

// isMetadata tells whether an address gives away a cloud's credentials. 169.254.169.254,
// which most clouds have, is link-local.
func isMetadata(a netip.Addr) bool { return slices.Contains(metadata, a) }

// A verdict is what becomes of a frame of the guest.
type verdict int

const (
	drop  verdict = iota
	admit         // to the stack
	ping          // to the pinger
)

// ingress decides on a frame of the guest before the stack sees it, and returns
// its protocol. The stack answers for every address (it has to, being the whole
// outside world), which is right for TCP and UDP but would also make it claim
// every address by ARP, the guest's own included, and return every ping to
// whatever address.
func ingress(frame []byte) (tcpip.NetworkProtocolNumber, verdict) {
	if len(frame) < header.EthernetMinimumSize {
		return 0, drop
	}
	protocol := header.Ethernet(frame).Type()
	payload := frame[header.EthernetMinimumSize:]
	switch protocol {
	case header.ARPProtocolNumber:
		return protocol, judgeARP(header.ARP(payload))
	case header.IPv4ProtocolNumber:
		return protocol, judgeIPv4(header.IPv4(payload))
	}
	return protocol, drop
}

func judgeARP(h header.ARP) verdict {
	if !h.IsValid() || h.Op() == header.ARPRequest && !isGatewayAddress(netip.AddrFrom4([4]byte(h.ProtocolAddressTarget()))) {
		return drop
	}
	return admit
}

func judgeIPv4(h header.IPv4) verdict {
	if !h.IsValid(len(h)) {
		return drop
	}
	dst := addrOf(h.DestinationAddress())
	if dst == broadcast4 || !routable(dst) && !dst.IsLinkLocalUnicast() && !isMetadata(dst) {
		return drop // those two are refused with an answer, which saves the guest a time-out
	}
	if h.TransportProtocol() != header.ICMPv4ProtocolNumber || isGatewayAddress(dst) {
		return admit
	}
	icmp := header.ICMPv4(h.Payload())
	if h.FragmentOffset() != 0 || h.More() || len(icmp) < header.ICMPv4MinimumSize {
		return drop
	}
	if icmp.Type() != header.ICMPv4Echo {
		return admit // errors about what came from elsewhere
	}
	if subnet.Contains(dst) || !routable(dst) {
		return drop
	}
	return ping
}

func isGatewayAddress(a netip.Addr) bool { return a == gatewayIP || a == hostIP || a == aliasIP }
