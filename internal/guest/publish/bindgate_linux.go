package publish

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"runtime"
	"strconv"
	"sync"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/hyve-vm/hyve/internal/guest/process"
)

// A BindGate asks before dockerd binds a port that it has chosen for a container. dockerd 28
// binds what a container publishes by itself and tries another port only where that fails;
// what its proxy hears later, that the host has given the port away, ends the container's
// start. So the kernel holds dockerd's calls of bind(2) until PID 1 lets them go on, or fails
// them: a filter of seccomp(2) that notifies.
type BindGate struct {
	// taken tells whether somebody else has the port, for which dockerd is to wait.
	taken func(publication) bool
	logf  func(string, ...any)
}

// NewBindGate returns a gate that asks for ports which docker has chosen.
func NewBindGate(p *Ports, logf func(string, ...any)) *BindGate { return &BindGate{p.taken, logf} }

// Start starts a program behind the gate, or without it where the kernel has none: its
// containers then get every port but a chosen one that the host has given away.
func (g *BindGate) Start(r *process.Reaper, argv []string, attr *os.ProcAttr) (*process.Process, error) {
	type outcome struct {
		p   *process.Process
		err error
	}
	started := make(chan outcome)
	go func() {
		// A filter is the thread's, and of what is started from it. The thread is not
		// unlocked, and so ends with this function.
		runtime.LockOSThread()
		calls, err := holdBinds()
		if err != nil {
			g.logf("starting %s: %v", argv[0], err)
		}
		p, startErr := r.Start(argv, attr)
		switch {
		case err != nil:
		case startErr != nil:
			unix.Close(calls)
		default:
			go g.serve(calls, p.PID)
		}
		started <- outcome{p, startErr}
	}()
	o := <-started
	return o.p, o.err
}

// A heldCall is a call that waits, struct seccomp_notif; it begins with its number.
type heldCall struct {
	id         uint64
	pid, flags uint32
	data       struct {
		number             int32
		arch               uint32
		instructionPointer uint64
		args               [6]uint64
	}
}

// A callAnswer is what becomes of it, struct seccomp_notif_resp.
type callAnswer struct {
	id    uint64
	value int64
	error int32 // negative
	flags uint32
}

// Where struct seccomp_data has what the filter looks at; the guest is little-endian.
const (
	callNumberAt = 0
	callArchAt   = 4
	bindLengthAt = 16 + 2*8 // the third argument
)

// auditArch is this processor's in struct seccomp_data.
var auditArch = map[string]uint32{"amd64": unix.AUDIT_ARCH_X86_64, "arm64": unix.AUDIT_ARCH_AARCH64}[runtime.GOARCH]

// holdBinds sets this thread's filter, which holds calls that bind an address of IPv4 or
// IPv6, and returns the descriptor by which they are told.
func holdBinds() (int, error) {
	const (
		load   = unix.BPF_LD | unix.BPF_W | unix.BPF_ABS
		equal  = unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K
		answer = unix.BPF_RET | unix.BPF_K
	)
	filter := []unix.SockFilter{
		{Code: load, K: callArchAt}, {Code: equal, K: auditArch, Jf: 5},
		{Code: load, K: callNumberAt}, {Code: equal, K: unix.SYS_BIND, Jf: 3},
		{Code: load, K: bindLengthAt}, {Code: equal, K: unix.SizeofSockaddrInet4, Jt: 2}, {Code: equal, K: unix.SizeofSockaddrInet6, Jt: 1},
		{Code: answer, K: unix.SECCOMP_RET_ALLOW},
		{Code: answer, K: unix.SECCOMP_RET_USER_NOTIF},
	}
	// Go's own signals would have the call begin again, and be told again.
	const flags = unix.SECCOMP_FILTER_FLAG_NEW_LISTENER | unix.SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV
	fd, _, errno := unix.RawSyscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, flags,
		uintptr(unsafe.Pointer(&unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]})))
	if errno != 0 {
		return -1, fmt.Errorf("holding its calls of bind: %w", errno)
	}
	return int(fd), nil
}

// serve answers the calls of a program and of its children, until all of them have ended.
// Children may go on at once: docker's proxies, and containers of a build.
func (g *BindGate) serve(calls, pid int) {
	var asking sync.WaitGroup
	defer unix.Close(calls)
	defer asking.Wait()
	for {
		var call heldCall
		switch err := nextCall(calls, &call); {
		case errors.Is(err, unix.ENOENT):
			continue // it was killed meanwhile
		case err != nil:
			g.logf("holding calls of bind: %v", err)
			return
		case call.id == 0:
			return
		}
		if _, err := os.Stat("/proc/" + strconv.Itoa(pid) + "/task/" + strconv.Itoa(int(call.pid))); err != nil {
			answerCall(calls, callAnswer{id: call.id, flags: unix.SECCOMP_USER_NOTIF_FLAG_CONTINUE})
			continue
		}
		asking.Go(func() {
			a := callAnswer{id: call.id, flags: unix.SECCOMP_USER_NOTIF_FLAG_CONTINUE}
			if want, ok := boundBy(pid, &call); ok && g.taken(want) {
				a = callAnswer{id: call.id, error: -int32(unix.EADDRINUSE)}
			}
			answerCall(calls, a)
		})
	}
}

// nextCall waits for a call. It leaves it empty when nobody is left who could make one.
func nextCall(calls int, call *heldCall) error {
	for {
		poll := []unix.PollFd{{Fd: int32(calls), Events: unix.POLLIN}}
		switch _, err := unix.Poll(poll, -1); {
		case errors.Is(err, unix.EINTR):
			continue
		case err != nil:
			return err
		case poll[0].Revents&unix.POLLIN == 0:
			return nil
		}
		_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(calls), unix.SECCOMP_IOCTL_NOTIF_RECV, uintptr(unsafe.Pointer(call)))
		switch errno {
		case 0:
			return nil
		case unix.EINTR:
			continue
		}
		return errno
	}
}

// answerCall lets a call go on or fail. One whose process is gone needs none.
func answerCall(calls int, a callAnswer) {
	unix.Syscall(unix.SYS_IOCTL, uintptr(calls), unix.SECCOMP_IOCTL_NOTIF_SEND, uintptr(unsafe.Pointer(&a)))
}

// boundBy returns what the process is about to bind, if that is a port of TCP or UDP. What
// it says may be another thing a moment later; nothing but its own good depends on it.
func boundBy(pid int, call *heldCall) (want publication, ok bool) {
	address := make([]byte, unix.SizeofSockaddrInet6)
	length := min(int(call.data.args[2]), len(address))
	local := unix.Iovec{Base: &address[0]}
	local.SetLen(length)
	n, err := unix.ProcessVMReadv(pid, []unix.Iovec{local}, []unix.RemoteIovec{{Base: uintptr(call.data.args[1]), Len: length}}, 0)
	if err != nil || n != length {
		return want, false
	}
	if want.hostIP, want.port, ok = parseSockaddr(address[:length]); !ok || want.port == 0 {
		return want, false
	}
	want.protocol, ok = protocolOf(pid, int(int32(call.data.args[0])))
	return want, ok
}

// parseSockaddr reads a struct sockaddr_in or sockaddr_in6 of linux/in.h and linux/in6.h.
func parseSockaddr(b []byte) (ip string, port uint16, ok bool) {
	if len(b) < unix.SizeofSockaddrInet4 {
		return "", 0, false
	}
	port = binary.BigEndian.Uint16(b[2:])
	switch family := binary.NativeEndian.Uint16(b); {
	case family == unix.AF_INET:
		return netip.AddrFrom4([4]byte(b[4:8])).String(), port, true
	case family == unix.AF_INET6 && len(b) >= unix.SizeofSockaddrInet6:
		return netip.AddrFrom16([16]byte(b[8:24])).String(), port, true
	}
	return "", 0, false
}

// protocolOf returns that of another process's socket, if it can be published.
func protocolOf(pid, fd int) (string, bool) {
	process, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return "", false
	}
	defer unix.Close(process)
	socket, err := unix.PidfdGetfd(process, fd, 0)
	if err != nil {
		return "", false
	}
	defer unix.Close(socket)
	protocol, err := unix.GetsockoptInt(socket, unix.SOL_SOCKET, unix.SO_PROTOCOL)
	switch {
	case err != nil:
		return "", false
	case protocol == unix.IPPROTO_TCP:
		return "tcp", true
	case protocol == unix.IPPROTO_UDP:
		return "udp", true
	}
	return "", false
}
