package accept

import (
	"encoding/binary"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// Requests and answers of sock_diag(7), in bytes: struct inet_diag_req_v2 and offsets
// in struct inet_diag_msg of linux/inet_diag.h.
const (
	diagRequestSize = 56
	diagIDOffset    = 8 // of struct inet_diag_sockid in the request
	diagStateOffset = 1
	diagUIDOffset   = 64
	diagInodeOffset = 68

	sockDiagByFamily = 20 // SOCK_DIAG_BY_FAMILY, linux/sock_diag.h
)

// A peer is a TCP socket as the kernel's tables have it.
type peer struct {
	state uint8
	uid   uint32
	inode uint32 // 0 when no process has it any more; then the uid means nothing
}

// localUser names the user at the other end of a TCP connection inside this host.
func localUser(conn net.Conn) string {
	p, err := peerOf(conn)
	switch {
	case err == nil && p.inode != 0 && p.state != synSent:
		return "uid " + strconv.FormatUint(uint64(p.uid), 10)
	case err == nil || hasEnded(conn):
		return nobody
	}
	return local // the kernel was built without, or translates the address
}

// own tells whether a source is this process's user: by TCP, or by a unix socket, of
// which hyve's are open to nobody else.
func own(source string) bool { return source == ownUser || strings.HasPrefix(source, "pid ") }

var ownUser = "uid " + strconv.Itoa(os.Getuid())

// orphaned tells whether no process has the other end any more. A socket that is yet to be
// accepted is nobody's, too, but has not ended anything.
func orphaned(conn net.Conn) (orphan, known bool) {
	p, err := peerOf(conn)
	if err != nil {
		return false, false
	}
	switch p.state {
	case finWait1, finWait2, timeWait, closing, lastAck:
		return p.inode == 0, true
	}
	return false, true
}

// States of TCP of linux/tcp_states.h.
const (
	synSent  = 2
	finWait1 = 4
	finWait2 = 5
	timeWait = 6
	lastAck  = 9
	closing  = 11
)

// hasEnded tells whether the other end has said that it will send no more, or is gone.
func hasEnded(conn net.Conn) (ended bool) {
	c, ok := conn.(syscall.Conn)
	if !ok {
		return false
	}
	raw, err := c.SyscallConn()
	if err != nil {
		return false
	}
	_ = raw.Control(func(fd uintptr) {
		fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLRDHUP}}
		n, err := unix.Poll(fds, 0)
		ended = err == nil && n > 0
	})
	return ended
}

// peerOf asks the kernel for the socket at the other end of a TCP connection inside this host.
func peerOf(conn net.Conn) (peer, error) {
	here, ok1 := conn.LocalAddr().(*net.TCPAddr)
	there, ok2 := conn.RemoteAddr().(*net.TCPAddr)
	if !ok1 || !ok2 {
		return peer{}, unix.ENOTSOCK
	}
	return socketBetween(there.AddrPort(), here.AddrPort())
}

// socketBetween asks the kernel for the TCP socket between two addresses of this host.
func socketBetween(local, remote netip.AddrPort) (peer, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, unix.NETLINK_INET_DIAG)
	if err != nil {
		return peer{}, err
	}
	defer unix.Close(fd)
	if err := unix.Sendto(fd, diagRequest(local, remote), 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return peer{}, err
	}
	b := make([]byte, 1024)
	n, _, err := unix.Recvfrom(fd, b, unix.MSG_DONTWAIT) // the answer is made by the request
	if err != nil {
		return peer{}, err
	}
	messages, err := syscall.ParseNetlinkMessage(b[:n])
	if err != nil {
		return peer{}, err
	}
	for _, m := range messages {
		if m.Header.Type == sockDiagByFamily && len(m.Data) >= diagInodeOffset+4 {
			return peer{
				state: m.Data[diagStateOffset],
				uid:   binary.NativeEndian.Uint32(m.Data[diagUIDOffset:]),
				inode: binary.NativeEndian.Uint32(m.Data[diagInodeOffset:]),
			}, nil
		}
	}
	return peer{}, unix.ENOENT
}

// diagRequest asks about one TCP socket by its two addresses.
func diagRequest(local, remote netip.AddrPort) []byte {
	b := make([]byte, unix.NLMSG_HDRLEN+diagRequestSize)
	binary.NativeEndian.PutUint32(b[0:], uint32(len(b)))
	binary.NativeEndian.PutUint16(b[4:], sockDiagByFamily)
	binary.NativeEndian.PutUint16(b[6:], unix.NLM_F_REQUEST)
	r := b[unix.NLMSG_HDRLEN:]
	from, to := local.Addr().Unmap(), remote.Addr().Unmap()
	r[0], r[1] = unix.AF_INET6, unix.IPPROTO_TCP
	if from.Is4() {
		r[0] = unix.AF_INET
	}
	binary.NativeEndian.PutUint32(r[4:], ^uint32(0)) // in any state
	id := r[diagIDOffset:]
	binary.BigEndian.PutUint16(id[0:], local.Port())
	binary.BigEndian.PutUint16(id[2:], remote.Port())
	copy(id[4:20], from.AsSlice())
	copy(id[20:36], to.AsSlice())
	binary.NativeEndian.PutUint64(id[40:], ^uint64(0)) // INET_DIAG_NOCOOKIE
	return b
}

// peerProcess names the process at the other end of a unix socket.
func peerProcess(conn net.Conn) string {
	u, ok := conn.(*net.UnixConn)
	if !ok {
		return local
	}
	raw, err := u.SyscallConn()
	if err != nil {
		return local
	}
	source := local
	_ = raw.Control(func(fd uintptr) {
		if cred, err := unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED); err == nil {
			source = "pid " + strconv.Itoa(int(cred.Pid))
		}
	})
	return source
}
