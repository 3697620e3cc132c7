package guest

import (
	"io"
	"sync"
	"time"

	"github.com/hyve-vm/hyve/internal/guestapi"
)

// ports are the published ports of all containers, one for each docker-proxy
// that runs.
type ports struct {
	out *outbox

	mu   sync.Mutex
	last uint64
	open map[uint64]*openPort
}

type openPort struct {
	event guestapi.PortOpened
	acked chan struct{} // closed by the host's acknowledgement
	once  sync.Once
}

func newPorts(out *outbox) *ports { return &ports{out: out, open: map[uint64]*openPort{}} }

// publish tells the host of a port, and of its end when conn, the connection
// that its proxy holds, ends.
func (p *ports) publish(protocol, hostIP string, port uint16, conn io.ReadWriter) {
	opened := p.add(protocol, hostIP, port)
	gone := make(chan struct{})
	go func() {
		defer close(gone)
		io.Copy(io.Discard, conn)
	}()
	timeout := time.NewTimer(ackTimeout)
	select {
	case <-opened.acked:
	case <-gone:
	case <-timeout.C:
		p.out.logf("publishing port %d: the host has not answered within %v", port, ackTimeout)
	}
	timeout.Stop()
	io.WriteString(conn, "ok\n")
	<-gone
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.open, opened.event.ID)
	p.out.put(guestapi.Event{PortClosed: &guestapi.PortClosed{ID: opened.event.ID}})
}

func (p *ports) add(protocol, hostIP string, port uint16) *openPort {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.last++
	o := &openPort{acked: make(chan struct{}), event: guestapi.PortOpened{
		ID: p.last, Protocol: protocol, HostIP: hostIP, Port: port}}
	p.open[p.last] = o
	p.out.put(guestapi.Event{PortOpened: &o.event})
	return o
}

// acknowledge notes the host's answer. One that nobody waits for is nothing.
func (p *ports) acknowledge(id uint64) {
	p.mu.Lock()
	o := p.open[id]
	p.mu.Unlock()
	if o != nil {
		o.once.Do(func() { close(o.acked) })
	}
}

// repeat tells a new host of all open ports, under their old IDs.
func (p *ports) repeat() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, o := range p.open {
		p.out.put(guestapi.Event{PortOpened: &o.event})
	}
}
