package accept

import (
	"net"
	"net/netip"
)

// Source names who has connected, as far as caps by source are concerned. On the host
// itself that is the user, whatever address of the loopback he comes from, where the
// system tells (Linux), and "local" elsewhere. Who has closed already has no user any more:
// all of those are one source, whose share is small. From elsewhere it is the address, of IPv6
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

const (
	// local is a source on this host of which no more is known.
	local = "local"
	// nobody is who has closed before it could be told who he was.
	nobody = "nobody"
	// nobodysPart is how many times smaller nobody's share is than everybody else's.
	nobodysPart = 4
)
