package network

import (
	"net/netip"
	"slices"
)

// A place is an address on which a published port listens.
type place struct {
	ip netip.Addr
	// need says what becomes of a publication whose port is taken here.
	need need
}

type need int

const (
	extra  need = iota // it goes without
	shared             // it is refused, unless another machine has it
	own                // it is refused, unless the machine itself has it, see Reserve
	named              // it is refused
)

// placesOf is where a port listens that was published on hostIP: on the machine's own
// address, or on localhost, and nowhere else.
func placesOf(machine netip.Addr, hostIP string) ([]place, error) {
	others := shared
	if machine == loopback4 {
		others = named // there is no address of its own to be reached on instead
	}
	ipv4 := []place{{loopback4, others}, {machine, own}}
	ipv6 := []place{{netip.IPv6Loopback(), others}}
	var list []place
	switch hostIP {
	case "":
		list = append(ipv4, ipv6...)
	case "0.0.0.0":
		list = ipv4
	case "::":
		list = ipv6
	case loopback4.String():
		list = []place{{loopback4, named}, {machine, extra}}
	case machine.String(), netip.IPv6Loopback().String():
		list = []place{{netip.MustParseAddr(hostIP), named}}
	default:
		return nil, beyondError{hostIP, machine}
	}
	return slices.CompactFunc(list, func(a, b place) bool { return a.ip == b.ip }), nil
}
