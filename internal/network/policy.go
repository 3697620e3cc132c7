package network

import (
	"net/netip"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
)

// hostAddress says where on the host's side a connection of the guest to dst
// goes, or that it goes nowhere.
func hostAddress(dst netip.Addr) (netip.Addr, bool) {
	switch {
	case dst == hostIP:
		return loopback4, true
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
	case a.IsLinkLocalUnicast(): // 169.254.169.254 gives away a cloud's credentials
		return false
	case b[0] >= 224: // multicast, reserved, broadcast
		return false
	}
	return true
}

// ingress decides on a frame of the guest before the stack sees it: its
// protocol, and whether it is let in. The stack answers for every address (it
// has to, being the whole outside world), which is right for TCP and UDP but
// would also make it claim every address by ARP, the guest's own included, and
// return every ping to whatever address.
func ingress(frame []byte) (tcpip.NetworkProtocolNumber, bool) {
	if len(frame) < header.EthernetMinimumSize {
		return 0, false
	}
	protocol := header.Ethernet(frame).Type()
	payload := frame[header.EthernetMinimumSize:]
	switch protocol {
	case header.ARPProtocolNumber:
		return protocol, admitARP(header.ARP(payload))
	case header.IPv4ProtocolNumber:
		return protocol, admitIPv4(header.IPv4(payload))
	}
	return protocol, false
}

func admitARP(h header.ARP) bool {
	if !h.IsValid() || h.Op() != header.ARPRequest {
		return h.IsValid()
	}
	return isGatewayAddress(netip.AddrFrom4([4]byte(h.ProtocolAddressTarget())))
}

func admitIPv4(h header.IPv4) bool {
	if !h.IsValid(len(h)) {
		return false
	}
	dst := netip.AddrFrom4(h.DestinationAddress().As4())
	if dst == broadcast4 || !subnet.Contains(dst) && !routableOrRefused(dst) {
		return false
	}
	if h.TransportProtocol() != header.ICMPv4ProtocolNumber || isGatewayAddress(dst) {
		return true
	}
	// Errors about what came from elsewhere are welcome, pings are not.
	icmp := header.ICMPv4(h.Payload())
	return h.FragmentOffset() == 0 && len(icmp) >= header.ICMPv4MinimumSize && icmp.Type() != header.ICMPv4Echo
}

// routableOrRefused also admits what the forwarders refuse with an answer, so
// that the guest does not have to wait for a time-out.
func routableOrRefused(dst netip.Addr) bool {
	return routable(dst) || dst.IsLinkLocalUnicast()
}

func isGatewayAddress(a netip.Addr) bool { return a == gatewayIP || a == hostIP }
