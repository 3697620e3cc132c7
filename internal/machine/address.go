package machine

import (
	"hash/fnv"
	"net/netip"
	"runtime"
	"slices"
)

// PickAddress returns the loopback address of a new machine: derived from its
// name, so that a machine that is made again keeps it, and not one of taken.
// All of 127.0.0.0/8 answers on Linux; macOS has 127.0.0.1 alone.
func PickAddress(name string, taken []netip.Addr) netip.Addr {
	if runtime.GOOS != "linux" {
		return netip.AddrFrom4([4]byte{127, 0, 0, 1})
	}
	hash := fnv.New32a()
	hash.Write([]byte(name))
	for n := hash.Sum32(); ; n++ {
		// 127.18.0.1 to 127.18.255.254, away from what resolvers and other
		// tools are known to use.
		address := netip.AddrFrom4([4]byte{127, 18, byte(n >> 8), byte(n%254) + 1})
		if !slices.Contains(taken, address) {
			return address
		}
	}
}
