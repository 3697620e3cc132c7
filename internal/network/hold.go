package network

import (
	"sync"
	"sync/atomic"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
)

// A hold keeps what is on its way to a guest that is away for a while.
type hold struct {
	wake func()
	once sync.Once

	mu    sync.Mutex
	kept  []*stack.PacketBuffer
	size  int // bytes
	ended bool
}

// maxKept bounds what is kept, in bytes. TCP sends again what is lost.
const maxKept = 256 << 10

// keep keeps packets that have their Ethernet header, and asks for the guest.
func (h *hold) keep(pkts []*stack.PacketBuffer) {
	h.mu.Lock()
	for _, pkt := range pkts {
		if h.ended || h.size >= maxKept {
			break
		}
		h.kept = append(h.kept, pkt.IncRef())
		h.size += pkt.Size()
	}
	h.mu.Unlock()
	h.once.Do(func() { go h.wake() })
}

// end returns what was kept, for the caller to release.
func (h *hold) end() []*stack.PacketBuffer {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.ended = true
	kept := h.kept
	h.kept = nil
	return kept
}

// Hold lets the guest go away for a while. From now on until the next hypervisor
// connects, or Release, TCP connections stay as they are, new ones wait, what is on
// its way to the guest is kept, and wake is called once, from a goroutine of its own,
// when there is something. Nothing is probed meanwhile.
func (n *Network) Hold(wake func()) {
	n.setKeepAlive(false)
	n.link.hold.Store(&hold{wake: wake})
}

// Release ends a hold whose guest has not gone away.
func (n *Network) Release() {
	if w := n.link.wire.Load(); w != nil {
		n.link.release(w)
	} else if h := n.link.hold.Swap(nil); h != nil {
		release(h.end())
	}
	n.setKeepAlive(true)
}

func (n *Network) setKeepAlive(on bool) {
	for _, ep := range n.stack.RegisteredEndpoints() {
		if e, ok := ep.(*tcp.Endpoint); ok {
			e.SocketOptions().SetKeepAlive(on)
		}
	}
}

func (n *Network) held() bool { return n.link.hold.Load() != nil }

// traffic is what moves between the host and the guest, on streams.
type traffic struct {
	began time.Time
	last  atomic.Int64 // nanoseconds since began
	asked atomic.Int64 // streams on which the guest is to speak next
}

func (t *traffic) touch() { t.last.Store(int64(time.Since(t.began))) }

// LastTraffic is when a stream between the host and the guest moved last: now, if
// somebody on the host has said something and waits for the guest's answer.
func (n *Network) LastTraffic() time.Time {
	if n.traffic.asked.Load() > 0 {
		return time.Now()
	}
	return n.traffic.began.Add(time.Duration(n.traffic.last.Load()))
}
