package network

import (
	"bytes"
	"errors"
	"sync/atomic"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/waiter"
)

// What the connections of a machine may hold, in bytes. Every connection begins with
// minBuffer each way. One that moves much gets more, up to maxBuffer, as long as the
// machine's growth lasts, and the less the less there is left. So a few streams are fast,
// and thousands that nobody reads stay small.
const (
	minBuffer = 8 << 10
	maxBuffer = 4 << 20
	growth    = 24 << 20
)

// A segment occupies about segmentCost bytes whatever its size. Those of less than
// smallSegment bytes are counted, so that a window full of single bytes cannot take a
// thousand times its size.
const (
	segmentCost  = 1 << 10
	smallSegment = 512
	minSegments  = 16
)

// timeWait is how long a connection that the host has ended is remembered. On the one cable
// to the guest no segment comes late: it is for the guest's end to be confirmed again.
const timeWait = time.Second

// A pool is what is left of a budget, in bytes.
type pool struct{ left atomic.Int64 }

// take takes what a buffer of size bytes, of which each costs weight, gets if it wants
// more: its new size.
func (p *pool) take(size, weight int64) int64 {
	for {
		left := p.left.Load()
		larger := min(4*size, maxBuffer, max(left/8/weight, 64<<10))
		cost := (larger - size) * weight
		if larger <= size || cost > left {
			return size
		}
		if p.left.CompareAndSwap(left, left-cost) {
			return larger
		}
	}
}

// setBuffers makes the buffers of new connections small: they grow when they are used.
func setBuffers(s *stack.Stack) tcpip.Error {
	receive := tcpip.TCPReceiveBufferSizeRangeOption{Min: minBuffer, Default: minBuffer, Max: maxBuffer}
	if err := s.SetTransportProtocolOption(tcp.ProtocolNumber, &receive); err != nil {
		return err
	}
	send := tcpip.TCPSendBufferSizeRangeOption{Min: minBuffer, Default: minBuffer, Max: maxBuffer}
	if err := s.SetTransportProtocolOption(tcp.ProtocolNumber, &send); err != nil {
		return err
	}
	// The longest pause between two probes of a guest that does not read.
	pause := tcpip.TCPMaxRTOOption(maxPause)
	if err := s.SetTransportProtocolOption(tcp.ProtocolNumber, &pause); err != nil {
		return err
	}
	// The guest may call again from a port at once, and 60 s of what has ended would be more
	// memory than all that has not.
	remember := tcpip.TCPTimeWaitTimeoutOption(timeWait)
	if err := s.SetTransportProtocolOption(tcp.ProtocolNumber, &remember); err != nil {
		return err
	}
	// So it is with what nobody is left for whom the guest could end it.
	linger := tcpip.TCPLingerTimeoutOption(timeWait)
	if err := s.SetTransportProtocolOption(tcp.ProtocolNumber, &linger); err != nil {
		return err
	}
	// The window's scale is for maxBuffer; the sizes are ours to decide.
	moderate := tcpip.TCPModerateReceiveBufferOption(true)
	return s.SetTransportProtocolOption(tcp.ProtocolNumber, &moderate)
}

// sizes are a connection's buffers. What they hold beyond minBuffer comes from the pool.
type sizes struct {
	pool          *pool
	receive, send atomic.Int64
	small         atomic.Int32 // segments received since the queue was seen empty
	sent          int          // small writes since the queue was seen empty
}

// What a byte of each buffer costs. A chunk that was read from the host and does not fit
// waits beside the send buffer.
const (
	receiveCost = 1
	sendCost    = 2
)

func (s *sizes) init(p *pool) {
	s.pool = p
	s.receive.Store(minBuffer)
	s.send.Store(minBuffer)
}

// giveBack returns what the buffers took of the pool.
func (s *sizes) giveBack() {
	s.pool.left.Add((s.receive.Swap(minBuffer)-minBuffer)*receiveCost + (s.send.Swap(minBuffer)-minBuffer)*sendCost)
}

// received notes that n bytes were read at once: half a window or more asks for a
// larger one. The window is half of the buffer.
func (c *guestConn) received(n int) {
	size := c.sizes.receive.Load()
	if int64(n) < size/4 && c.sizes.small.Load() < c.sizes.segments()/2 {
		return
	}
	if larger := c.sizes.pool.take(size, receiveCost); larger > size {
		c.sizes.receive.Store(larger)
		c.ep.SocketOptions().SetReceiveBufferSize(larger, true)
	}
}

// filled notes that n bytes were there to be sent at once: as many as may be read at once
// ask for more room.
func (c *guestConn) filled(n int) {
	size := c.sizes.send.Load()
	if int64(n) < min(size, copySize) {
		return
	}
	if larger := c.sizes.pool.take(size, sendCost); larger > size {
		c.sizes.send.Store(larger)
		c.ep.SocketOptions().SetSendBufferSize(larger, true)
	}
}

// shrink gives the buffers of a connection that has come to rest back.
func (c *guestConn) shrink() {
	if c.sizes.receive.Load() == minBuffer && c.sizes.send.Load() == minBuffer {
		return
	}
	if n, err := c.ep.GetSockOptInt(tcpip.ReceiveQueueSizeOption); err != nil || n > 0 || !c.allSent() {
		return
	}
	c.sizes.giveBack()
	c.ep.SocketOptions().SetReceiveBufferSize(minBuffer, true)
	c.ep.SocketOptions().SetSendBufferSize(minBuffer, true)
}

// segments is how many small segments may wait to be read.
func (s *sizes) segments() int32 { return int32(max(s.receive.Load()/segmentCost, minSegments)) }

// overrun tells that a small segment from the guest is one too many. It is lost, and
// TCP sends it again with what has followed it.
func (c *guestConn) overrun() bool {
	if c.sizes.small.Add(1) <= c.sizes.segments() {
		return false
	}
	if n, err := c.ep.GetSockOptInt(tcpip.ReceiveQueueSizeOption); err == nil && n > 0 {
		c.sizes.small.Store(c.sizes.segments())
		return true
	}
	c.sizes.small.Store(1)
	return false
}

// allSent tells whether the guest has acknowledged everything. Only who writes may ask.
func (c *guestConn) allSent() bool {
	size := c.sizes.send.Load()
	c.ep.SocketOptions().SetSendBufferSize(1, true) // writable means: less than one byte is waiting
	defer c.ep.SocketOptions().SetSendBufferSize(size, true)
	return c.ep.Readiness(waiter.WritableEvents|waiter.EventErr|waiter.EventHUp) != 0
}

// gather waits while too many small segments are on their way to the guest, so that
// those which follow become one.
func (c *guestConn) gather(n int) {
	if n >= smallSegment {
		return
	}
	if c.sizes.sent++; c.sizes.sent <= minSegments {
		return
	}
	for pause := time.Millisecond; !c.allSent(); pause = min(2*pause, 50*time.Millisecond) {
		time.Sleep(pause)
	}
	c.sizes.sent = 0
}

// offer queues as much of b as there is room for.
func (c *guestConn) offer(b []byte) (int, error) {
	n, terr := c.ep.Write(bytes.NewReader(b), tcpip.WriteOptions{})
	switch terr.(type) {
	case nil, *tcpip.ErrWouldBlock:
		return int(n), nil
	}
	return int(n), errors.New(terr.String())
}
