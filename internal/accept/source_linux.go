package accept

import (
	"encoding/binary"
	"net"
	"net/netip"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"
)

// Requests and answers of sock_diag(7), in bytes: struct inet_diag_req_v2 and the offset
// of idiag_uid in struct inet_diag_msg of linux/inet_diag.h.
const (
	diagRequestSize = 56
	diagIDOffset    = 8 // of struct inet_diag_sockid in the request
	diagUIDOffset   = 64

	sockDiagByFamily = 20 // SOCK_DIAG_BY_FAMILY, linux/sock_diag.h
)

// localUser names the user at the other end of a TCP connection inside this host.
func localUser(conn net.Conn) string {
	here, ok1 := conn.LocalAddr().(*net.TCPAddr)
	there, ok2 := conn.RemoteAddr().(*net.TCPAddr)
	if !ok1 || !ok2 {
		return local
	}
	uid, err := socketOwner(there.AddrPort(), here.AddrPort())
	if err != nil {
		return local // the other end is gone, or the kernel was built without
	}
	return "uid " + strconv.FormatUint(uint64(uid), 10)
}

// socketOwner asks the kernel who owns the TCP socket between two addresses of this host.
func socketOwner(local, remote netip.AddrPort) (uint32, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, unix.NETLINK_INET_DIAG)
	if err != nil {
		return 0, err
	}
	defer unix.Close(fd)
	if err := unix.Sendto(fd, diagRequest(local, remote), 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return 0, err
	}
	b := make([]byte, 1024)
	n, _, err := unix.Recvfrom(fd, b, unix.MSG_DONTWAIT) // the answer is made by the request
	if err != nil {
		return 0, err
	}
	messages, err := syscall.ParseNetlinkMessage(b[:n])
	if err != nil {
		return 0, err
	}
	for _, m := range messages {
		if m.Header.Type == sockDiagByFamily && len(m.Data) >= diagUIDOffset+4 {
			return binary.NativeEndian.Uint32(m.Data[diagUIDOffset:]), nil
		}
	}
	return 0, unix.ENOENT
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
