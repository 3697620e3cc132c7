package publish

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hyve-vm/hyve/internal/guest/outbox"
	"github.com/hyve-vm/hyve/internal/guestapi"
)

// Ports are the published ports of all containers, one for each docker-proxy
// that runs, and one for each program that listens in the guest's own network.
type Ports struct {
	out *outbox.Outbox
	// free returns a port of the guest that nobody has, wanted if it can be.
	free func(protocol string, wanted uint16) (uint16, error)
	// origin tells who has chosen a port, chosen more quickly whether docker has, of all.
	origin func(port uint16) origin
	chosen func(port uint16) bool

	mu       sync.Mutex
	last     uint64
	open     map[uint64]*openPort
	followed map[publication]*openPort // those of open that no proxy stands for
	reserved map[publication]*openPort // those whose proxy is still to come; no target in it
}

type openPort struct {
	want  publication
	event guestapi.PortOpened
	grant grant
	acked chan struct{}
	// answer is the host's, once acked is closed.
	answer  guestapi.PortAck
	settled bool        // whoever asked has been answered
	expiry  *time.Timer // of one that is reserved
}

// NewPorts returns the ports of a guest that publishes none yet.
func NewPorts(out *outbox.Outbox) *Ports {
	return &Ports{out: out, open: map[uint64]*openPort{}, followed: map[publication]*openPort{}, reserved: map[publication]*openPort{}, free: freePort, origin: originOf, chosen: chosenByDocker}
}

// Serve publishes the port that a docker-proxy asks for over conn, in the words of one line,
// until conn ends. Only words that are no such request are an error.
func (p *Ports) Serve(words []string, conn io.ReadWriter) error {
	want, err := parsePortLine(words)
	if err != nil {
		return err
	}
	p.publish(want, conn)
	return nil
}

// publish tells the host of a port, and of its end when conn, the connection
// that its proxy holds, ends. The proxy is told where in the guest to listen, or why not.
func (p *Ports) publish(want publication, conn io.ReadWriter) {
	if want.protocol == "sctp" {
		io.WriteString(conn, portRefused+" protocol not supported (tcp and udp can be published to the host, sctp cannot)\n")
		return
	}
	opened, err := p.add(want, p.chosen(want.port))
	if err != nil {
		fmt.Fprintf(conn, portRefused+" %v\n", err)
		return
	}
	gone := make(chan struct{})
	go func() {
		defer close(gone)
		io.Copy(io.Discard, conn)
	}()
	if refused := p.await(opened, gone).Refused; refused != "" {
		fmt.Fprintf(conn, portRefused+" %s\n", strings.ReplaceAll(refused, "\n", " "))
	} else {
		fmt.Fprintf(conn, portGranted+" %s %d\n", opened.grant.address, opened.grant.port)
	}
	<-gone
	p.remove(opened)
}

// await returns the host's answer, an empty one if there is none in time or gone closes
// before.
func (p *Ports) await(o *openPort, gone <-chan struct{}) guestapi.PortAck {
	timeout := time.NewTimer(ackTimeout)
	defer timeout.Stop()
	select {
	case <-o.acked:
	case <-gone:
	case <-timeout.C:
		p.out.Logf("publishing port %d: the host has not answered within %v", o.want.port, ackTimeout)
	}
	return p.settle(o)
}

// reservedFor bounds how long a port is kept for a proxy that does not come. dockerd binds
// all ports of a container before it starts the first proxy.
const reservedFor = 2 * time.Minute

// taken asks the host for a port that dockerd is about to bind, if docker has chosen it, and
// tells whether it has given that away. Otherwise the port is reserved for the container's
// proxy. One that the user has named is left to that, which can say who has it.
func (p *Ports) taken(want publication) bool {
	o := p.origin(want.port)
	if o != anyPort && o != ranged {
		return false
	}
	opened, err := p.add(want, o == anyPort)
	if err != nil {
		return false
	}
	answer := p.await(opened, nil)
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case answer.Refused == "":
		p.reserved[want] = opened
		opened.expiry = time.AfterFunc(reservedFor, func() { p.unreserve(func(o *openPort) bool { return o == opened }) })
	default:
		p.drop(opened)
		// Of the other family, or at another address, it will not be bound either.
		p.giveBack(func(o *openPort) bool { return o.want.protocol == want.protocol && o.want.port == want.port })
	}
	return answer.Taken
}

// Unreserve gives all reserved ports back: the dockerd that was about to use them has ended.
func (p *Ports) Unreserve() { p.unreserve(func(*openPort) bool { return true }) }

// unreserve gives those reserved ports back for which no proxy has come.
func (p *Ports) unreserve(which func(*openPort) bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.giveBack(which)
}

// giveBack is unreserve for who holds mu.
func (p *Ports) giveBack(which func(*openPort) bool) {
	for want, o := range p.reserved {
		if which(o) {
			o.expiry.Stop()
			delete(p.reserved, want)
			p.drop(o)
		}
	}
}

// add opens a port and tells the host, unless it is reserved.
func (p *Ports) add(want publication, chosen bool) (*openPort, error) {
	event, err := want.event()
	if err != nil {
		return nil, err
	}
	event.Firm, event.Chosen = true, chosen
	p.mu.Lock()
	defer p.mu.Unlock()
	g, err := p.inGuest(want)
	if err != nil {
		return nil, err
	}
	if o := p.claim(want); o != nil {
		if o.grant == g {
			return o, nil
		}
		p.drop(o)
	}
	if g.port != want.port {
		event.GuestPort = g.port
	}
	p.displace(want, g)
	return p.put(&openPort{want: want, event: event, grant: g, acked: make(chan struct{})}), nil
}

// displace takes back what was followed and leads elsewhere in the guest than the proxy that
// has come for it: dockerd 28 listens before it starts one. The caller holds mu.
func (p *Ports) displace(by publication, to grant) {
	for want, o := range p.followed {
		if want.protocol == by.protocol && want.port == by.port && o.grant.port != to.port {
			p.drop(o)
			delete(p.followed, want)
		}
	}
}

// claim returns the port that is reserved for what is wanted, or nil. The caller holds mu.
func (p *Ports) claim(want publication) *openPort {
	key := want
	key.target = ""
	o := p.reserved[key]
	if o != nil {
		o.expiry.Stop()
		delete(p.reserved, key)
		o.want = want
	}
	return o
}

// put numbers a port and tells the host. The caller holds mu.
func (p *Ports) put(o *openPort) *openPort {
	p.last++
	o.event.ID = p.last
	p.open[p.last] = o
	p.tell(o)
	return o
}

// unclaimed leaves out what a proxy stands for.
func (p *Ports) unclaimed(now []publication) []publication {
	p.mu.Lock()
	defer p.mu.Unlock()
	type served struct {
		protocol string
		port     uint16
	}
	proxies := map[served]bool{}
	for _, o := range p.open {
		if p.followed[o.want] != o {
			proxies[served{o.want.protocol, o.grant.port}] = true
			proxies[served{o.want.protocol, o.want.port}] = true // dockerd 28 may have bound it
		}
	}
	return slices.DeleteFunc(slices.Clone(now), func(want publication) bool { return proxies[served{want.protocol, want.port}] })
}

// follow publishes what listens now and is no proxy's, and takes back what does not any
// more. What has a target is served by a relay, or not at all. Nobody can be refused.
func (p *Ports) follow(now []publication, relays map[publication]uint16) {
	now = p.unclaimed(now)
	p.mu.Lock()
	defer p.mu.Unlock()
	wanted := map[publication]uint16{} // where in the guest
	for _, want := range now {
		if port := relays[want]; port != 0 {
			wanted[want] = port
		} else if want.target == "" {
			wanted[want] = want.port
		}
	}
	for want, o := range p.followed {
		if wanted[want] != o.grant.port {
			p.drop(o)
			delete(p.followed, want)
		}
	}
	for want, port := range wanted {
		if p.followed[want] != nil || len(p.followed) >= maxFollowed {
			continue
		}
		event, err := want.event()
		if err != nil {
			continue // it has no address of which the host could know
		}
		if port != want.port {
			event.GuestPort = port
		}
		p.followed[want] = p.put(&openPort{want: want, event: event, grant: grant{"0.0.0.0", port}, acked: make(chan struct{}), settled: true})
	}
}

// maxFollowed is as many as the host would publish.
const maxFollowed = 1024

// inGuest picks where in the guest a container's port is served to the host, which comes
// by IPv4. It is the same port, for all addresses, unless somebody has it: the guest's
// doors, or a container that was published on another address. IPv6 is served where IPv4
// is, if that is the same container. The caller holds mu.
func (p *Ports) inGuest(want publication) (grant, error) {
	wanted := want.port
	switch {
	case strings.Contains(want.hostIP, ":"):
		for _, o := range p.open {
			ipv4 := want
			ipv4.hostIP = "0.0.0.0"
			if want.hostIP == "::" && o.want == ipv4 {
				return grant{"::", o.grant.port}, nil
			}
		}
		wanted = 0
	case isDoor(want.protocol, want.port):
		wanted = 0
	case want.hostIP == "0.0.0.0":
		return grant{want.hostIP, wanted}, nil // a container that has it is docker's to tell of
	}
	port, err := p.free(want.protocol, wanted)
	return grant{"0.0.0.0", port}, err
}

// isDoor tells whether the port is one of the guest's own.
func isDoor(protocol string, port uint16) bool {
	return protocol == "tcp" && (port == guestapi.EnginePort || port == guestapi.SSHPort)
}

// settle ends the wait for the host's answer, and returns it.
func (p *Ports) settle(o *openPort) guestapi.PortAck {
	p.mu.Lock()
	defer p.mu.Unlock()
	o.settled = true
	if o.answer.Refused == "" {
		o.event.Firm = false // somebody relies on it now
	}
	return o.answer
}

func (p *Ports) remove(o *openPort) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.drop(o)
}

// drop is remove for who holds mu.
func (p *Ports) drop(o *openPort) {
	delete(p.open, o.event.ID)
	p.out.Put(guestapi.Event{PortClosed: &guestapi.PortClosed{ID: o.event.ID}})
}

// Acknowledge notes the host's answer. One that nobody waits for is nothing; a refusal
// that comes too late makes the port one that the host serves when it can.
func (p *Ports) Acknowledge(ack guestapi.PortAck) {
	p.mu.Lock()
	defer p.mu.Unlock()
	o := p.open[ack.ID]
	if o == nil {
		return
	}
	if o.settled {
		if ack.Refused != "" {
			p.out.Logf("the host refuses port %d late: %s", o.event.Port, ack.Refused)
			p.tell(o)
		}
		return
	}
	select {
	case <-o.acked:
	default:
		o.answer = ack
		close(o.acked)
	}
}

// tell tells the host of a port. The caller holds mu.
func (p *Ports) tell(o *openPort) {
	event := o.event
	p.out.Put(guestapi.Event{PortOpened: &event})
}

// Repeat tells a new host of all open ports, under their old IDs.
func (p *Ports) Repeat() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, o := range p.open {
		p.tell(o)
	}
}
