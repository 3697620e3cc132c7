package publish

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/hyve-vm/hyve/internal/guestapi"
)

// askedPorts remember which ports the programs of this network name space have asked bind(2)
// for. Of UDP, whoever asks for one by its number is a server; a client is content with any,
// and looks the same once it has one. Of TCP it is the guest's doors alone: PID 1 has them,
// and a program that wants one gets a free port, as far as it is not told.
type askedPorts struct{ sockets int } // a map: a socket's cookie, its port as it is in the network

// maxAsked is how many sockets are remembered. They are forgotten as they are closed, but for
// the kernel's own (WireGuard's), of which the eldest have to go.
const maxAsked = 4096

// newAskedPorts notes ports from now on, in a control group and below.
func newAskedPorts(group string) (*askedPorts, error) {
	sockets, err := newMap(unix.BPF_MAP_TYPE_LRU_HASH, 8, 4, maxAsked)
	if err != nil {
		return nil, fmt.Errorf("noting which ports are asked for: %w", err)
	}
	dir, err := os.Open(group)
	if err != nil {
		return nil, fmt.Errorf("noting which ports are asked for: %w", err)
	}
	defer dir.Close()
	space, err := networkCookie()
	if err != nil {
		return nil, fmt.Errorf("noting which ports are asked for: %w", err)
	}
	a := &askedPorts{sockets}
	err = errors.Join(
		attachProgram(dir, hook{unix.BPF_PROG_TYPE_CGROUP_SOCK_ADDR, unix.BPF_CGROUP_INET4_BIND}, a.onBind(space)),
		attachProgram(dir, hook{unix.BPF_PROG_TYPE_CGROUP_SOCK_ADDR, unix.BPF_CGROUP_INET6_BIND}, a.onBind(space)),
		attachProgram(dir, hook{unix.BPF_PROG_TYPE_CGROUP_SOCK, unix.BPF_CGROUP_INET_SOCK_RELEASE}, a.onRelease()))
	if err != nil {
		return nil, fmt.Errorf("noting which ports are asked for: %w", err)
	}
	return a, nil
}

// networkCookie is the number of this network name space.
func networkCookie() (uint64, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, err
	}
	defer unix.Close(fd)
	return unix.GetsockoptUint64(fd, unix.SOL_SOCKET, unix.SO_NETNS_COOKIE)
}

// onBind is for struct bpf_sock_addr: it notes the port, if that is not 0, of UDP, and of TCP
// where it is a door, of which the program gets a free port instead.
func (a *askedPorts) onBind(space uint64) []insn {
	const port, protocol = 24, 36 // fields
	move0 := []insn{
		load32(2, 6, protocol), ifOther(2, unix.IPPROTO_TCP, 2), // to the end
		set(3, 0), store32(6, 3, port),
	}
	note := append([]insn{move(1, 6), call(helperNetworkCookie)}, load64(2, space)...)
	note = append(note,
		ifDiffer64(0, 2, int16(12+len(move0))), // to the end
		move(1, 6), call(helperSocketCookie), store64(10, 0, -8), store32(10, 7, -12))
	note = append(append(note, loadMap(1, a.sockets)...),
		move(2, 10), add(2, -8), move(3, 10), add(3, -12), set(4, 0), call(helperUpdate))
	note = append(note, move0...)
	program := []insn{
		move(6, 1),
		load32(7, 6, port), ifEqual(7, 0, int16(5+len(note))),
		load32(2, 6, protocol), ifEqual(2, unix.IPPROTO_UDP, 3), ifOther(2, unix.IPPROTO_TCP, int16(2+len(note))),
		ifEqual(7, netOrder16(guestapi.SSHPort), 1), ifOther(7, netOrder16(guestapi.EnginePort), int16(len(note))),
	}
	return append(append(program, note...), set(0, 1), exit())
}

// onRelease is for struct bpf_sock, of a socket that is closed.
func (a *askedPorts) onRelease() []insn {
	program := append([]insn{call(helperSocketCookie), store64(10, 0, -8)}, loadMap(1, a.sockets)...)
	return append(program, move(2, 10), add(2, -8), call(helperDelete), set(0, 1), exit())
}

// of returns the port that was asked for a socket, 0 if none was or nobody knows.
func (a *askedPorts) of(cookie uint64) uint16 {
	if a == nil {
		return 0
	}
	port := make([]byte, 4)
	if mapElement(unix.BPF_MAP_LOOKUP_ELEM, a.sockets, binary.NativeEndian.AppendUint64(nil, cookie), port) != nil {
		return 0
	}
	return binary.BigEndian.Uint16(port)
}
