package network

import (
	"crypto/sha256"
	"encoding/binary"
	"net/netip"
	"runtime"
)

// machineNet is where Linux machines have their own loopback addresses. The
// whole of 127.0.0.0/8 is the host's there without any set-up; this part of it
// is far from what distributions use (127.0.1.1, 127.0.0.53).
var machineNet = netip.MustParsePrefix("127.18.0.0/15")

// PickLoopback chooses a machine's own loopback address on the host: the same
// for the same name, where it is not taken, and the next free one otherwise.
// macOS has 127.0.0.1 only, which is then everybody's. The zero Addr is
// returned when all 130,048 addresses are taken.
func PickLoopback(name string, taken map[netip.Addr]bool) netip.Addr {
	if runtime.GOOS == "darwin" {
		return loopback4
	}
	return pickFrom(machineNet, name, taken)
}

func pickFrom(p netip.Prefix, name string, taken map[netip.Addr]bool) netip.Addr {
	base, size := binary.BigEndian.Uint32(p.Addr().AsSlice()), uint32(1)<<(32-p.Bits())
	sum := sha256.Sum256([]byte(name))
	start := binary.BigEndian.Uint32(sum[:])
	for i := range size {
		offset := (start + i) % size
		if last := offset & 0xff; last == 0 || last == 0xff {
			continue // they look like a network and a broadcast address
		}
		var b [4]byte
		binary.BigEndian.PutUint32(b[:], base+offset)
		if a := netip.AddrFrom4(b); !taken[a] {
			return a
		}
	}
	return netip.Addr{}
}
