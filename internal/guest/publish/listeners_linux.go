package publish

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"os"
	"slices"
	"sync/atomic"
	"time"
	"unsafe"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/hyve-vm/hyve/internal/guest/outbox"
	"github.com/hyve-vm/hyve/internal/guest/process"
)

// The kernel tells when a TCP socket begins and ceases to listen and when a UDP socket is
// bound, by programs that ring a bell; which sockets there are is asked of it then. It does
// not tell when a UDP socket is closed, so while one is published that is no container's, it
// is asked now and then. Of SCTP it tells that there is a socket and nothing else, so from the
// first one on it is asked as well.
const (
	listenersSettle = 50 * time.Millisecond
	listenersAgain  = 2 * time.Second
)

// A Follower publishes what listens in the guest's own network: programs of containers with
// --network host, the ports of a swarm, and whatever a user runs.
type Follower struct {
	Ports  *Ports
	Reaper *process.Reaper
	Out    *outbox.Outbox
	Cgroup string // the root of all control groups
	// Card returns the address of the guest's network card, the zero Addr if it has none.
	Card func() netip.Addr
	// FrontPort returns where the engine's front listens besides its door, 0 if nowhere.
	FrontPort func() uint16

	asked  *askedPorts
	relays *relays
	ways   *doorWays
}

// Run follows until ctx ends. The guest's doors are open by now.
func (f *Follower) Run(ctx context.Context) {
	bell, err := newBell(f.Cgroup)
	if err != nil {
		f.Out.Logf("following what listens: %v", err)
		return
	}
	if f.asked, err = newAskedPorts(f.Cgroup); err != nil {
		f.Out.Logf("%v", err)
	}
	f.relays, f.ways = newRelays(f.Reaper, f.Out), newDoorWays(f.Reaper)
	rings := make(chan struct{}, 1)
	go func() {
		for bell.wait() == nil {
			select {
			case rings <- struct{}{}:
			default:
			}
		}
	}()
	for {
		untold, err := f.publish()
		if err != nil {
			f.Out.Logf("%v", err)
		}
		var again <-chan time.Time
		if untold {
			again = time.After(listenersAgain)
		}
		select {
		case <-rings:
			time.Sleep(listenersSettle) // a program that starts opens several
		case <-again:
		case <-ctx.Done():
			return
		}
	}
}

// publish publishes what listens now, and reports whether there may be a change that the
// kernel does not tell.
func (f *Follower) publish() (untold bool, err error) {
	all, untold, err := listeners()
	if err != nil {
		return false, err
	}
	card := f.Card()
	all = slices.DeleteFunc(all, func(l listener) bool {
		return l.isElsewhere(func(device uint32) bool { return hasAddress(device, card) })
	})
	ephemeral := ephemeralPorts()
	var wanted []publication
	moved := map[publication]uint16{} // what has asked for a door, and where it listens
	for _, l := range withTwins(all) {
		p, ok := l.wanted(card)
		if !ok || isDoor(p.protocol, p.port) || p.protocol == "tcp" && p.port == f.FrontPort() || f.relays.has(p.protocol, p.port) || l.isClient(ephemeral, f.asked.of) {
			continue
		}
		if door := f.asked.of(l.cookie); isDoor(p.protocol, door) {
			p.port = door
			if _, ok := moved[p]; !ok && p.target == "" {
				moved[p] = l.address.Port()
			}
		}
		wanted = append(wanted, p)
		untold = untold || p.protocol == "udp" || p.protocol == "udplite"
	}
	wanted = f.Ports.unclaimed(wanted)
	at := f.relays.follow(card, wanted)
	maps.Copy(at, moved)
	f.Ports.follow(wanted, at)
	return untold, f.ways.follow(moved)
}

// hasAddress tells whether a network device, by its number, has the address.
func hasAddress(device uint32, address netip.Addr) bool {
	one, err := net.InterfaceByIndex(int(device))
	if err != nil {
		return false
	}
	addresses, err := one.Addrs()
	return err == nil && slices.ContainsFunc(addresses, func(a net.Addr) bool {
		prefix, ok := a.(*net.IPNet)
		return ok && prefix.IP.Equal(address.AsSlice())
	})
}

// listeners asks the kernel for the sockets of this network name space that wait for
// anybody, and whether it has SCTP.
func listeners() (all []listener, sctp bool, err error) {
	for _, kind := range []struct {
		protocol string
		number   uint8
		state    uint32
	}{{"tcp", unix.IPPROTO_TCP, 10}, {"udp", unix.IPPROTO_UDP, 7}, {"udplite", unix.IPPROTO_UDPLITE, 7}, {"sctp", unix.IPPROTO_SCTP, 10}} { // TCP_LISTEN, TCP_CLOSE
		for _, family := range []uint8{unix.AF_INET, unix.AF_INET6} {
			request := nl.NewNetlinkRequest(nl.SOCK_DIAG_BY_FAMILY, unix.NLM_F_DUMP)
			body := make([]byte, 56) // struct inet_diag_req_v2
			body[0], body[1] = family, kind.number
			binary.NativeEndian.PutUint32(body[4:], 1<<kind.state)
			request.AddRawData(body)
			answers, err := request.Execute(unix.NETLINK_INET_DIAG, 0)
			if errors.Is(err, unix.ENOENT) {
				continue // no such sockets, no such module
			}
			if err != nil {
				return nil, false, fmt.Errorf("asking what listens: %w", err)
			}
			sctp = sctp || kind.protocol == "sctp"
			for _, answer := range answers {
				if l, ok := parseListener(kind.protocol, answer); ok {
					all = append(all, l)
				}
			}
		}
	}
	return all, sctp, nil
}

// A bell rings when sockets begin or cease to listen in a control group or below, or may. It is a
// ring of the kernel's, in which nobody cares for more than that there is something.
type bell struct {
	fd       int
	consumed *uint64 // the first word of a page of ours
	produced *uint64 // of one of the kernel's
}

// ringSize is that of the ring in bytes, a power of two and of pages.
const ringSize = 4096 * 4

func newBell(group string) (*bell, error) {
	fd, err := newMap(unix.BPF_MAP_TYPE_RINGBUF, 0, 0, ringSize)
	if err != nil {
		return nil, err
	}
	page := os.Getpagesize()
	ours, err := unix.Mmap(fd, 0, page, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return nil, fmt.Errorf("mapping a ring: %w", err)
	}
	theirs, err := unix.Mmap(fd, int64(page), page, unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		return nil, fmt.Errorf("mapping a ring: %w", err)
	}
	dir, err := os.Open(group)
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	b := &bell{fd: fd, consumed: (*uint64)(unsafe.Pointer(&ours[0])), produced: (*uint64)(unsafe.Pointer(&theirs[0]))}
	return b, errors.Join(
		attachProgram(dir, hook{unix.BPF_PROG_TYPE_SOCK_OPS, unix.BPF_CGROUP_SOCK_OPS}, b.onListen()),
		attachProgram(dir, hook{unix.BPF_PROG_TYPE_CGROUP_SOCK, unix.BPF_CGROUP_INET4_POST_BIND}, b.onSocket(unix.IPPROTO_UDP, unix.IPPROTO_UDPLITE)),
		attachProgram(dir, hook{unix.BPF_PROG_TYPE_CGROUP_SOCK, unix.BPF_CGROUP_INET6_POST_BIND}, b.onSocket(unix.IPPROTO_UDP, unix.IPPROTO_UDPLITE)),
		attachProgram(dir, hook{unix.BPF_PROG_TYPE_CGROUP_SOCK, unix.BPF_CGROUP_INET_SOCK_CREATE}, b.onSocket(unix.IPPROTO_SCTP)),
	)
}

// ring rings, and ends the program well.
func (b *bell) ring() []insn {
	program := append([]insn{zero32(10, -8), zero32(10, -4)}, loadMap(1, b.fd)...)
	return append(program, move(2, 10), add(2, -8), set(3, 8), set(4, 0), call(helperRing), set(0, 1), exit())
}

// onListen is for struct bpf_sock_ops: it rings for a socket that begins to listen, which
// it asks to be told of, and for one that ceases.
func (b *bell) onListen() []insn {
	const op, oldState = 0, 4 // fields
	const tcpListen = 10
	return append([]insn{
		move(6, 1),
		load32(2, 6, op),
		ifEqual(2, unix.BPF_SOCK_OPS_TCP_LISTEN_CB, 5), // to the flags
		ifOther(2, unix.BPF_SOCK_OPS_STATE_CB, 2),      // to the end
		load32(2, 6, oldState),
		ifEqual(2, tcpListen, 5), // to the bell
		set(0, 1),
		exit(),
		move(1, 6), // the flags
		set(2, unix.BPF_SOCK_OPS_STATE_CB_FLAG),
		call(helperSockOpsFlags),
	}, b.ring()...)
}

// onSocket is for struct bpf_sock: it rings for one of the protocols.
func (b *bell) onSocket(protocols ...int32) []insn {
	const field = 12
	program := []insn{load32(2, 1, field)}
	for i, protocol := range protocols {
		program = append(program, ifEqual(2, protocol, int16(len(protocols)-i+1))) // to the bell
	}
	return append(append(program, set(0, 1), exit()), b.ring()...)
}

// wait returns when it has rung since the last time.
func (b *bell) wait() error {
	for {
		_, err := unix.Poll([]unix.PollFd{{Fd: int32(b.fd), Events: unix.POLLIN}}, -1)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return fmt.Errorf("waiting for the kernel: %w", err)
		}
		atomic.StoreUint64(b.consumed, atomic.LoadUint64(b.produced))
		return nil
	}
}
