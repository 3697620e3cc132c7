package accept

import (
	"net"
	"net/netip"
)

// Source names who has connected, as far as caps by source are concerned. On the host
// itself that is the user, whatever address of the loopback he comes from, where the
// system tells (Linux), and "local" elsewhere. From elsewhere it is the address, of IPv6
// the network of 64 bits, all of which one computer may have.
func Source(conn net.Conn) string {
	remote, ok := conn.RemoteAddr().(*net.TCPAddr)
	if !ok {
		return peerProcess(conn)
	}
	a := remote.AddrPort().Addr().Unmap()
	if a.IsLoopback() {
		return localUser(conn)
	}
	return bySubnet(a)
}

func bySubnet(a netip.Addr) string {
	if a.Is6() {
		if p, err := a.WithZone("").Prefix(64); err == nil {
			return p.String()
		}
	}
	return a.String()
}

// local is a source on this host of which no more is known.
const local = "local"
