package network

import (
	"errors"
	"io"
	"net"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/waiter"
)

// Keep-alive probes of connections with the guest find those whose other end
// went without a word, a container's network that was taken away for instance.
// They are slow, so that a paused VM keeps its connections for some time.
const (
	keepAliveIdle     = 10 * time.Minute
	keepAliveInterval = time.Minute
	keepAliveCount    = 10
)

func keepAlive(ep tcpip.Endpoint) {
	idle, interval := tcpip.KeepaliveIdleOption(keepAliveIdle), tcpip.KeepaliveIntervalOption(keepAliveInterval)
	_ = ep.SetSockOpt(&idle)
	_ = ep.SetSockOpt(&interval)
	_ = ep.SetSockOptInt(tcpip.KeepaliveCountOption, keepAliveCount)
	ep.SocketOptions().SetKeepAlive(true)
}

// copySize is how much of a stream moves at once, in bytes.
const copySize = 128 << 10

// buffers holds copySize bytes each. A connection borrows one while it has data
// to move, so that an idle one costs no more than its two goroutines.
var buffers = sync.Pool{New: func() any { return new([copySize]byte) }}

// relay moves bytes between a connection of the host and one of the guest until
// both directions have ended, and closes both. The end of one direction is
// passed on and leaves the other open; an error ends both with a reset.
func relay(host net.Conn, guest *guestConn) {
	var fail sync.Once
	abort := func() {
		fail.Do(func() {
			if t, ok := host.(*net.TCPConn); ok {
				_ = t.SetLinger(0)
			}
			_ = host.Close()
			guest.abort()
		})
	}
	ended := make(chan struct{}) // by the host
	done := make(chan struct{})
	go func() {
		defer close(done)
		err := copyToGuest(guest, host)
		close(ended)
		if err != nil || guest.CloseWrite() != nil {
			abort()
		}
	}()
	if copyToHost(host, guest) != nil || closeWrite(host) != nil {
		abort()
	}
	// A host that waits, and says nothing, does not notice that a guest which has
	// said all is gone.
	if guest.gone(ended) {
		abort()
	}
	<-done
	_ = host.Close()
	_ = guest.Close()
}

// gone waits until stop is closed or the guest's side is dead in both directions, and
// tells which.
func (c *guestConn) gone(stop <-chan struct{}) bool {
	const dead = waiter.EventErr | waiter.EventHUp
	entry, event := waiter.NewChannelEntry(dead)
	c.wq.EventRegister(&entry)
	defer c.wq.EventUnregister(&entry)
	for c.ep.Readiness(dead)&dead == 0 {
		select {
		case <-event:
		case <-stop:
			return false
		}
	}
	select {
	case <-stop:
		return false
	default:
		return true
	}
}

func closeWrite(c net.Conn) error {
	if cw, ok := c.(interface{ CloseWrite() error }); ok {
		return cw.CloseWrite()
	}
	return c.Close()
}

// copyToHost copies until the guest's side ends; nil is a regular end.
func copyToHost(host net.Conn, guest *guestConn) error {
	entry, ready := waiter.NewChannelEntry(waiter.ReadableEvents | waiter.EventErr | waiter.EventHUp | waiter.EventRdHUp)
	guest.wq.EventRegister(&entry)
	defer guest.wq.EventUnregister(&entry)
	for {
		end, wait, err := moveToHost(host, guest)
		if end || err != nil {
			return err
		}
		if wait {
			<-ready
		}
	}
}

// moveToHost copies what has arrived from the guest, at most copySize bytes.
func moveToHost(host net.Conn, guest *guestConn) (end, wait bool, err error) {
	b := buffers.Get().(*[copySize]byte)
	defer buffers.Put(b)
	w := tcpip.SliceWriter(b[:])
	res, terr := guest.ep.Read(&w, tcpip.ReadOptions{})
	switch terr.(type) {
	case nil:
		guest.ep.ModerateRecvBuf(res.Count)
		guest.spoke(false)
		_, err = host.Write(b[:res.Count])
		return false, false, err
	case *tcpip.ErrWouldBlock:
		return false, true, nil
	case *tcpip.ErrClosedForReceive:
		return true, false, nil
	}
	return false, false, errors.New(terr.String())
}

// copyToGuest copies until the host's side ends; nil is a regular end.
func copyToGuest(guest *guestConn, host net.Conn) error {
	sc, ok := host.(syscall.Conn)
	if !ok {
		_, err := io.Copy(guest, host)
		return err
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return err
	}
	for {
		b, n, err := borrowRead(raw)
		if n > 0 {
			_, werr := guest.Write(b[:n])
			err = errors.Join(err, werr)
		}
		if b != nil {
			buffers.Put(b)
		}
		if err != nil {
			return err
		}
		if n == 0 {
			return nil
		}
	}
}

// borrowRead waits until raw can be read and reads into a borrowed buffer,
// which the caller gives back. A stream that has ended reads 0 bytes.
func borrowRead(raw syscall.RawConn) (*[copySize]byte, int, error) {
	var (
		b   *[copySize]byte
		n   int
		err error
	)
	rerr := raw.Read(func(fd uintptr) bool {
		b = buffers.Get().(*[copySize]byte)
		for {
			if n, err = unix.Read(int(fd), b[:]); err != unix.EINTR {
				break
			}
		}
		if err == unix.EAGAIN {
			buffers.Put(b)
			b = nil
			return false
		}
		return true
	})
	if rerr != nil {
		err = rerr
	}
	if err != nil {
		n = 0
	}
	return b, n, err
}
