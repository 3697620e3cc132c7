package publish

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/hyve-vm/hyve/internal/guestapi"
)

// KeepOffDoors lets the programs of a control group bind the guest's doors, as far as they
// can tell: they get a free port of loopback instead. dockerd 28 binds what a container
// publishes by itself, and goes no further where it cannot; the host's connections come by
// another proxy, see proxyBeside. On loopback, nobody takes the port for a service.
func KeepOffDoors(group string) error {
	dir, err := os.Open(group)
	if err != nil {
		return fmt.Errorf("keeping the guest's doors free: %w", err)
	}
	defer dir.Close()
	attach := func(to uint32, loopback []insn) error {
		return attachProgram(dir, hook{unix.BPF_PROG_TYPE_CGROUP_SOCK_ADDR, to}, offDoors(loopback))
	}
	err = errors.Join(
		attach(unix.BPF_CGROUP_INET4_BIND, []insn{set(3, netOrder32(0x7f000001)), store32(1, 3, userIP4)}),
		attach(unix.BPF_CGROUP_INET6_BIND, []insn{store32(1, 3, userIP6), store32(1, 3, userIP6+4), store32(1, 3, userIP6+8),
			set(3, netOrder32(1)), store32(1, 3, userIP6+12)}))
	if err != nil {
		return fmt.Errorf("keeping the guest's doors free: %w", err)
	}
	return nil
}

// offDoors is for struct bpf_sock_addr. loopback sets the address; register 3 holds 0.
func offDoors(loopback []insn) []insn {
	const port, protocol = 24, 36 // fields
	change := append([]insn{set(3, 0), store32(1, 3, port)}, loopback...)
	program := []insn{
		load32(2, 1, protocol), ifOther(2, unix.IPPROTO_TCP, int16(3+len(change))), // to the end
		load32(2, 1, port),
		ifEqual(2, netOrder16(guestapi.SSHPort), 1),
		ifOther(2, netOrder16(guestapi.EnginePort), int16(len(change))),
	}
	return append(append(program, change...), set(0, 1), exit())
}

// Numbers as they are in the network, read as this processor's.
func netOrder16(n uint16) int32 {
	return int32(binary.NativeEndian.Uint16(binary.BigEndian.AppendUint16(nil, n)))
}

func netOrder32(n uint32) int32 {
	return int32(binary.NativeEndian.Uint32(binary.BigEndian.AppendUint32(nil, n)))
}
