package publish

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"os"

	"golang.org/x/sys/unix"

	"github.com/hyve-vm/hyve/internal/guestapi"
)

// A HostAddress makes the machine's own address on the host, which is one of the host's
// loopback and would be each container's own, lead to the host from everywhere in the
// guest: where a program connects or sends to it, it does so to the address by which the
// virtual network knows the machine's.
type HostAddress struct{ addresses int } // a map: what programs say, what is meant

// Attach lets the kernel translate, at first nothing.
func (h *HostAddress) Attach(group string) error {
	dir, err := os.Open(group)
	if err != nil {
		return fmt.Errorf("translating the machine's address: %w", err)
	}
	defer dir.Close()
	if h.addresses, err = newMap(unix.BPF_MAP_TYPE_ARRAY, 4, 8, 1); err != nil {
		return fmt.Errorf("translating the machine's address: %w", err)
	}
	for _, attach := range []struct {
		to      uint32
		reverse bool
		ipv6    bool
	}{
		{unix.BPF_CGROUP_INET4_CONNECT, false, false},
		{unix.BPF_CGROUP_INET6_CONNECT, false, true},
		{unix.BPF_CGROUP_UDP4_SENDMSG, false, false},
		{unix.BPF_CGROUP_UDP6_SENDMSG, false, true},
		{unix.BPF_CGROUP_UDP4_RECVMSG, true, false},
		{unix.BPF_CGROUP_UDP6_RECVMSG, true, true},
		{unix.BPF_CGROUP_INET4_GETPEERNAME, true, false},
		{unix.BPF_CGROUP_INET6_GETPEERNAME, true, true},
	} {
		if err := attachProgram(dir, hook{unix.BPF_PROG_TYPE_CGROUP_SOCK_ADDR, attach.to}, h.program(attach.reverse, attach.ipv6)); err != nil {
			return fmt.Errorf("translating the machine's address: %w", err)
		}
	}
	return nil
}

// Fields of struct bpf_sock_addr.
const (
	userIP4 = 4
	userIP6 = 8 // four words
)

// program replaces an address by the other one, with reverse the other way round. Of IPv6
// it is one that means IPv4, ::ffff:a.b.c.d.
func (h *HostAddress) program(reverse, ipv6 bool) []insn {
	from, to := int16(0), int16(4)
	if reverse {
		from, to = to, from
	}
	field, mapped := int16(userIP4), []insn(nil)
	const rest = 5 // instructions that a program without anything to do jumps over
	if ipv6 {
		field = userIP6 + 12
		prefix := binary.NativeEndian.Uint32([]byte{0, 0, 0xff, 0xff})
		mapped = []insn{
			load32(2, 6, userIP6), ifOther(2, 0, rest+4),
			load32(2, 6, userIP6+4), ifOther(2, 0, rest+2),
			load32(2, 6, userIP6+8), ifOther(2, int32(prefix), rest),
		}
	}
	program := append([]insn{move(6, 1), zero32(10, -4)}, loadMap(1, h.addresses)...)
	program = append(program, move(2, 10), add(2, -4), call(helperLookup), ifZero(0, int16(len(mapped))+rest))
	program = append(program, mapped...)
	return append(program,
		load32(3, 0, from), load32(4, 0, to), load32(2, 6, field), ifDiffer(2, 3, 1), store32(6, 4, field),
		set(0, 1), exit())
}

// Set says what the addresses are; where the network has no other for the machine's,
// nothing is translated.
func (h *HostAddress) Set(n guestapi.Identity) error {
	if h.addresses <= 0 {
		return nil // the kernel does not translate, which was said
	}
	value := make([]byte, 8)
	if n.HostAddress != "" {
		said, err := netip.ParseAddr(n.HostAddress)
		meant, err2 := netip.ParseAddr(n.HostAlias)
		if err != nil || err2 != nil || !said.Is4() || !meant.Is4() {
			return fmt.Errorf("translating the machine's address: %q and %q, want two of IPv4", n.HostAddress, n.HostAlias)
		}
		copy(value[:4], said.AsSlice())
		copy(value[4:], meant.AsSlice())
	}
	if err := mapElement(unix.BPF_MAP_UPDATE_ELEM, h.addresses, make([]byte, 4), value); err != nil {
		return fmt.Errorf("translating the machine's address: %w", err)
	}
	return nil
}
