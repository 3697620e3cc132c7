package network

import (
	"bytes"
	"errors"
	"io"
	"net"
	"slices"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/waiter"

	"github.com/hyve-vm/hyve/internal/accept"
)

// Keep-alive probes of connections with the guest find those whose other end
// went without a word, a container's network that was taken away for instance.
// They are slow, so that a paused VM keeps its connections for some time, except where
// the warden hurries them. Then it, not the stack, decides who is dead.
const (
	keepAliveIdle     = 10 * time.Minute
	keepAliveInterval = time.Minute
	keepAliveCount    = 10

	hurriedInterval = 5 * time.Second
	hurriedCount    = 1 << 20
)

func keepAlive(ep tcpip.Endpoint, hurry bool) {
	idle, interval, count := tcpip.KeepaliveIdleOption(keepAliveIdle), tcpip.KeepaliveIntervalOption(keepAliveInterval), keepAliveCount
	if hurry {
		idle, interval, count = tcpip.KeepaliveIdleOption(hurriedInterval), tcpip.KeepaliveIntervalOption(hurriedInterval), hurriedCount
	}
	_ = ep.SetSockOpt(&idle)
	_ = ep.SetSockOpt(&interval)
	_ = ep.SetSockOptInt(tcpip.KeepaliveCountOption, count)
	ep.SocketOptions().SetKeepAlive(true)
}

// copySize is how much of a stream moves at once, in bytes.
const copySize = 128 << 10

// buffers holds copySize bytes each. A connection borrows one while it has data
// to move, so that an idle one costs no more than its two goroutines.
var buffers = sync.Pool{New: func() any { return new([copySize]byte) }}

// relay moves bytes between a connection of the host and one of the guest until
// both directions have ended, and closes both. The end of one direction is
// passed on and leaves the other open, as long as there is somebody at the host's end; an
// error ends both with a reset.
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
	ended := make(chan struct{})    // by the host
	deserted := make(chan struct{}) // nobody is at the host's end, and the guest has it all
	done := make(chan struct{})
	unread := false // something, when the host had said all
	go func() {
		defer close(done)
		err := copyToGuest(guest, host)
		unread = !guest.allSent()
		close(ended)
		if err != nil || guest.CloseWrite() != nil {
			abort()
		} else if accept.AwaitDesertion(host) {
			guest.settle(tcp.StateFinWait1)
			close(deserted)
		}
	}()
	err := copyToHost(host, guest, deserted)
	if err != errDeserted && (err != nil || closeWrite(host) != nil) {
		abort()
	}
	// A host that waits, and says nothing, does not notice that a guest which has
	// said all is gone.
	if guest.gone(ended) {
		abort()
	}
	<-ended
	_ = host.Close()
	<-done
	if unread {
		guest.settle(tcp.StateClosing, tcp.StateLastAck)
	}
	_ = guest.Close()
}

// errDeserted says that nobody is there any more to read what the guest may yet say.
var errDeserted = errors.New("the host's end is closed")

// settle waits while the connection is in one of these states, of those in which the guest
// has yet to take what was sent to it, or the end of it: what it does not read holds
// memory, and so has to count on.
func (c *guestConn) settle(states ...tcp.EndpointState) {
	e, ok := c.ep.(*tcp.Endpoint)
	if !ok {
		return
	}
	entry, event := waiter.NewChannelEntry(waiter.EventErr | waiter.EventHUp)
	c.wq.EventRegister(&entry)
	defer c.wq.EventUnregister(&entry)
	c.stuck.Add(1)
	defer c.stuck.Add(-1)
	for pause := time.Millisecond; slices.Contains(states, e.EndpointState()); pause = min(2*pause, time.Second) {
		select {
		case <-event:
		case <-time.After(pause): // not every change of state is told
		case <-c.network.ctx.Done():
			return
		}
	}
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

// copyToHost copies until the guest's side ends; nil is a regular end, errDeserted the end
// of waiting for the guest. What the host does not take stays in the guest's connection,
// whose window it fills.
func copyToHost(host net.Conn, guest *guestConn, deserted <-chan struct{}) error {
	sc, ok := host.(syscall.Conn)
	if !ok {
		_, err := io.Copy(host, guest)
		return err
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return err
	}
	entry, ready := waiter.NewChannelEntry(waiter.ReadableEvents | waiter.EventErr | waiter.EventHUp | waiter.EventRdHUp)
	guest.wq.EventRegister(&entry)
	defer guest.wq.EventUnregister(&entry)
	defer guest.interrupt(host)()
	for {
		end, wait, err := moveToHost(raw, guest)
		if end || err != nil {
			return err
		}
		if !wait {
			continue
		}
		select {
		case <-ready:
		case <-deserted:
			return errDeserted
		}
	}
}

// interrupt wakes whoever waits for the host to read when the guest's side is reset. The
// returned function ends that.
func (c *guestConn) interrupt(host net.Conn) (stop func()) {
	wake := func(waiter.EventMask) {
		if e, ok := c.ep.(*tcp.Endpoint); ok && e.EndpointState() == tcp.StateError {
			_ = host.SetWriteDeadline(time.Unix(1, 0))
		}
	}
	entry := waiter.NewFunctionEntry(waiter.EventErr, wake)
	c.wq.EventRegister(&entry)
	wake(waiter.EventErr)
	return func() { c.wq.EventUnregister(&entry) }
}

// moveToHost copies what has arrived from the guest, at most copySize bytes, as soon as
// the host takes it. No buffer is held meanwhile.
func moveToHost(raw syscall.RawConn, guest *guestConn) (end, wait bool, err error) {
	held := false
	rerr := raw.Write(func(fd uintptr) bool {
		end, wait, err = guest.drain(int(fd))
		if err != unix.EAGAIN {
			return true
		}
		if !held {
			held = true
			guest.stuck.Add(1)
		}
		return false
	})
	if held {
		guest.stuck.Add(-1)
	}
	if rerr != nil {
		err = rerr
	}
	return end, wait, err
}

// drain moves what has arrived to the file fd, without waiting.
func (c *guestConn) drain(fd int) (end, wait bool, err error) {
	b := buffers.Get().(*[copySize]byte)
	defer buffers.Put(b)
	w := tcpip.SliceWriter(b[:])
	res, terr := c.ep.Read(&w, tcpip.ReadOptions{Peek: true})
	switch terr.(type) {
	case nil:
	case *tcpip.ErrWouldBlock:
		c.sizes.small.Store(0)
		return false, true, nil
	case *tcpip.ErrClosedForReceive:
		return true, false, nil
	default:
		return false, false, errors.New(terr.String())
	}
	n, err := writeSome(fd, b[:res.Count])
	if n > 0 {
		_, _ = c.ep.Read(&tcpip.LimitedWriter{W: io.Discard, N: int64(n)}, tcpip.ReadOptions{})
		c.spoke(false)
		c.received(n)
	}
	if n < res.Count && err == nil {
		return false, false, nil // the next try says why
	}
	return false, false, err
}

func writeSome(fd int, b []byte) (int, error) {
	for {
		n, err := unix.Write(fd, b)
		if err != unix.EINTR {
			return max(n, 0), err
		}
	}
}

// copyToGuest copies until the host's side ends; nil is a regular end. Nothing is read of
// the host before the guest has room for some of it.
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
	entry, ready := waiter.NewChannelEntry(waiter.WritableEvents | waiter.EventErr | waiter.EventHUp)
	guest.wq.EventRegister(&entry)
	defer guest.wq.EventUnregister(&entry)
	for {
		guest.awaitRoom(ready)
		n, rest, err := moveToGuest(raw, guest)
		for len(rest) > 0 && err == nil {
			guest.awaitRoom(ready)
			var sent int
			sent, err = guest.offer(rest)
			rest = rest[sent:]
		}
		if err != nil || n == 0 {
			return err
		}
		guest.gather(n)
	}
}

// awaitRoom waits until the guest's side takes something, or is dead.
func (c *guestConn) awaitRoom(ready <-chan struct{}) {
	const events = waiter.WritableEvents | waiter.EventErr | waiter.EventHUp
	if c.ep.Readiness(events) != 0 {
		return
	}
	c.stuck.Add(1)
	defer c.stuck.Add(-1)
	for c.ep.Readiness(events) == 0 {
		<-ready
	}
	c.touch()
}

// moveToGuest moves n bytes that the host has sent, of which the guest has no room for
// rest.
func moveToGuest(raw syscall.RawConn, guest *guestConn) (n int, rest []byte, err error) {
	b, n, err := borrowRead(raw, int(min(guest.sizes.send.Load(), copySize)))
	if b == nil {
		return n, nil, err
	}
	defer buffers.Put(b)
	if err != nil || n == 0 {
		return n, nil, err
	}
	guest.spoke(true)
	sent, err := guest.offer(b[:n])
	guest.filled(n)
	return n, bytes.Clone(b[sent:n]), err
}

// borrowRead waits until raw can be read and reads at most limit bytes into a borrowed
// buffer, which the caller gives back. A stream that has ended reads 0 bytes.
func borrowRead(raw syscall.RawConn, limit int) (*[copySize]byte, int, error) {
	var (
		b   *[copySize]byte
		n   int
		err error
	)
	rerr := raw.Read(func(fd uintptr) bool {
		b = buffers.Get().(*[copySize]byte)
		for {
			if n, err = unix.Read(int(fd), b[:limit]); err != unix.EINTR {
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
