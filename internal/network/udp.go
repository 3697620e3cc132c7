package network

import (
	"bytes"
	"errors"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/waiter"
)

const (
	// udpIdle ends a session in which nothing moved for so long. UDP has no
	// end of its own; RFC 4787 asks for two minutes.
	udpIdle = 2 * time.Minute

	// udpBuffer is, in bytes, what a session's datagrams may occupy each way
	// before more are lost: a few of the largest.
	udpBuffer = 256 << 10
)

// A udpSession is one conversation of a guest's port: a connected endpoint of
// the stack, and a way to send to the peer on the host's side.
type udpSession struct {
	ep     tcpip.Endpoint
	wq     *waiter.Queue
	member *member      // in the crowd of all
	last   atomic.Int64 // when a datagram last passed, since table.start
	done   chan struct{}
	close  func() // idempotent
}

// A udpTable is every session of a network.
type udpTable struct {
	start time.Time // monotonic origin of udpSession.last
	crowd *crowd

	mu       sync.Mutex
	sessions map[*udpSession]struct{}
	sweeper  *time.Timer // runs while there are sessions
}

// newSession registers a session. release is called once, when it ends.
func (t *udpTable) newSession(ep tcpip.Endpoint, wq *waiter.Queue, release func()) *udpSession {
	ep.SocketOptions().SetSendBufferSize(udpBuffer, true)
	ep.SocketOptions().SetReceiveBufferSize(udpBuffer, true)
	s := &udpSession{ep: ep, wq: wq, done: make(chan struct{})}
	s.close = sync.OnceFunc(func() {
		close(s.done)
		ep.Close()
		release()
		t.remove(s)
	})
	s.member = t.crowd.enter(pairOf(ep), func() { s.close() })
	t.touch(s)
	t.mu.Lock()
	if t.sessions == nil {
		t.sessions = map[*udpSession]struct{}{}
	}
	t.sessions[s] = struct{}{}
	if t.sweeper == nil {
		t.sweeper = time.AfterFunc(udpIdle/4, t.sweep)
	}
	t.mu.Unlock()
	return s
}

// pairOf is who speaks with whom, the guest first.
func pairOf(ep tcpip.Endpoint) pair {
	var p pair
	if remote, err := ep.GetRemoteAddress(); err == nil {
		p.src = addrOf(remote.Addr)
	}
	if local, err := ep.GetLocalAddress(); err == nil {
		p.dst = addrOf(local.Addr)
	}
	return p
}

func (t *udpTable) touch(s *udpSession) {
	s.member.touch()
	s.last.Store(int64(time.Since(t.start)))
}

func (t *udpTable) remove(s *udpSession) {
	t.crowd.leave(s.member)
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.sessions, s)
	if len(t.sessions) == 0 && t.sweeper != nil {
		t.sweeper.Stop()
		t.sweeper = nil
	}
}

// sweep ends idle sessions.
func (t *udpTable) sweep() {
	var idle []*udpSession
	t.mu.Lock()
	limit := int64(time.Since(t.start) - udpIdle)
	for s := range t.sessions {
		if s.last.Load() < limit {
			idle = append(idle, s)
		}
	}
	if t.sweeper != nil {
		t.sweeper.Reset(udpIdle / 4)
	}
	t.mu.Unlock()
	for _, s := range idle {
		s.close()
	}
}

// closeIf ends the sessions of which doomed is true.
func (t *udpTable) closeIf(doomed func(who pair, port uint16) bool) {
	t.mu.Lock()
	all := make([]*udpSession, 0, len(t.sessions))
	for s := range t.sessions {
		if local, err := s.ep.GetLocalAddress(); err == nil && doomed(s.member.pair, local.Port) {
			all = append(all, s)
		}
	}
	t.mu.Unlock()
	for _, s := range all {
		s.close()
	}
}

func (t *udpTable) closeAll() {
	t.mu.Lock()
	all := make([]*udpSession, 0, len(t.sessions))
	for s := range t.sessions {
		all = append(all, s)
	}
	t.mu.Unlock()
	for _, s := range all {
		s.close()
	}
}

// sourceCheck is how often a session that sends looks whether it still sends
// from the right address.
const sourceCheck = 5 * time.Second

// errSourceChanged ends a session; the guest's next datagram begins a new one.
var errSourceChanged = errors.New("the host's network changed")

// relayUDP runs a session between the guest's endpoint and a connected socket
// of the host, in the background.
func (n *Network) relayUDP(host *net.UDPConn, ep tcpip.Endpoint, wq *waiter.Queue) {
	s := n.udp.newSession(ep, wq, func() { _ = host.Close() })
	checked := time.Now()
	started := n.spawn(func() {
		defer s.close()
		n.udp.fromGuest(s, func(b []byte) error {
			if time.Since(checked) > sourceCheck {
				if checked = time.Now(); sourceChanged(host) {
					return errSourceChanged
				}
			}
			_, err := host.Write(b)
			return err
		})
	}) && n.spawn(func() {
		defer s.close()
		n.udp.fromHost(s, host)
	})
	if !started {
		s.close()
	}
}

// sourceChanged tells whether the host would reach the peer of conn from
// another address by now, because a VPN came up for instance. A connected
// socket keeps the address with which it began, and a guest that keeps sending
// from one port would never get an answer again.
func sourceChanged(conn *net.UDPConn) bool {
	probe, err := net.DialUDP("udp4", nil, conn.RemoteAddr().(*net.UDPAddr)) // sends nothing
	if err != nil {
		return true
	}
	defer probe.Close()
	return !probe.LocalAddr().(*net.UDPAddr).IP.Equal(conn.LocalAddr().(*net.UDPAddr).IP)
}

// fromGuest sends what the guest sends until the session ends.
func (t *udpTable) fromGuest(s *udpSession, send func([]byte) error) {
	entry, ready := waiter.NewChannelEntry(waiter.ReadableEvents | waiter.EventErr | waiter.EventHUp)
	s.wq.EventRegister(&entry)
	defer s.wq.EventUnregister(&entry)
	for {
		wait, err := t.moveDatagram(s, send)
		if err != nil {
			return
		}
		if !wait {
			continue
		}
		select {
		case <-ready:
		case <-s.done:
			return
		}
	}
}

func (t *udpTable) moveDatagram(s *udpSession, send func([]byte) error) (wait bool, err error) {
	b := buffers.Get().(*[copySize]byte)
	defer buffers.Put(b)
	w := tcpip.SliceWriter(b[:])
	res, terr := s.ep.Read(&w, tcpip.ReadOptions{})
	switch terr.(type) {
	case nil:
	case *tcpip.ErrWouldBlock:
		return true, nil
	case *tcpip.ErrConnectionRefused, *tcpip.ErrHostUnreachable, *tcpip.ErrNetworkUnreachable:
		return false, nil // of an earlier datagram to the guest
	default:
		return false, errors.New(terr.String())
	}
	t.touch(s)
	if err := send(b[:res.Count]); lasting(err) {
		return false, err
	}
	return false, nil
}

// fromHost passes on what the socket receives until the session ends.
func (t *udpTable) fromHost(s *udpSession, host *net.UDPConn) {
	raw, err := host.SyscallConn()
	if err != nil {
		return
	}
	for {
		b, n, err := borrowRead(raw, copySize)
		if err == nil {
			t.toGuest(s, b[:n])
		}
		if b != nil {
			buffers.Put(b)
		}
		if lasting(err) {
			return
		}
	}
}

// toGuest sends one datagram; without room it is lost, as UDP allows.
func (t *udpTable) toGuest(s *udpSession, b []byte) {
	t.touch(s)
	_, _ = s.ep.Write(bytes.NewReader(b), tcpip.WriteOptions{})
}

// lasting tells an error of the socket from that of one datagram, which
// belongs to UDP.
func lasting(err error) bool {
	switch {
	case err == nil,
		errors.Is(err, syscall.ECONNREFUSED),
		errors.Is(err, syscall.EHOSTUNREACH),
		errors.Is(err, syscall.ENETUNREACH),
		errors.Is(err, syscall.ENETDOWN),
		errors.Is(err, syscall.EMSGSIZE),
		errors.Is(err, syscall.EPERM), // the host's firewall
		errors.Is(err, syscall.ENOBUFS):
		return false
	}
	return true
}
