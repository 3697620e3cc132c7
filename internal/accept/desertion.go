package accept

import (
	"errors"
	"net"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Nothing tells that a client inside this host, which has ended its direction, has closed
// the other one, too. So it is asked for, after firstAsk and at twice the pause each time
// up to longestAsk.
const (
	firstAsk   = time.Millisecond
	longestAsk = 5 * time.Second
)

// AwaitDesertion waits until the other end of conn, which has said all it had to say, is
// closed altogether: nobody is there any more to read an answer. False means that conn was
// closed here, or is of a kind that cannot tell. It has conn's read deadline to itself.
//
// Of TCP inside this host it is known within five seconds, on Linux. Elsewhere keep-alive
// probes, which conn must have, find it when the other system has forgotten the connection.
func AwaitDesertion(conn net.Conn) bool {
	sc, ok := conn.(syscall.Conn)
	if !ok {
		return false
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return false
	}
	for pause := firstAsk; ; pause = min(2*pause, longestAsk) {
		deserted, known := isDeserted(conn)
		if deserted {
			return true
		}
		var again time.Time // never, where it is told
		if known {
			again = time.Now().Add(pause)
		}
		_ = conn.SetReadDeadline(again)
		err := raw.Read(isHungUp)
		if err == nil {
			return true
		}
		if !errors.Is(err, os.ErrDeadlineExceeded) {
			return false
		}
	}
}

// isDeserted tells whether no process has the other end of a TCP connection inside this
// host any more. It is not known of other hosts, on systems other than Linux, and from a
// minute on after the other end was closed.
func isDeserted(conn net.Conn) (deserted, known bool) {
	remote, ok := conn.RemoteAddr().(*net.TCPAddr)
	if !ok || !remote.IP.IsLoopback() {
		return false, false
	}
	return orphaned(conn)
}

// isHungUp tells whether nothing can be sent on the socket fd any more. It sends nothing.
func isHungUp(fd uintptr) bool {
	_, err := unix.SendmsgN(int(fd), nil, nil, nil, 0)
	return err != nil && err != unix.EAGAIN && err != unix.EINTR
}
