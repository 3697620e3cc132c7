package network

import (
	"fmt"
	"io"
	"net/netip"
	"sync"
	"syscall"
	"time"
)

// A port that cannot be bound is tried again after retryFirst, and at twice the
// interval each time up to retryMax. Linux has no event for a port that
// becomes free; only ports with a problem are tried.
const (
	retryFirst = 500 * time.Millisecond
	retryMax   = 5 * time.Second
)

// A publisher keeps the published ports. Several bindings may want one address;
// it is bound while one of them does.
type publisher struct {
	n    *Network
	wake chan struct{} // something for run to do

	mu       sync.Mutex
	closed   bool
	ports    map[bindKey]*port
	bindings int
	doors    map[netip.AddrPort]bool // of the machine's own, see Reserve
	news     []news                  // for Config.OnProblem
}

type bindKey struct {
	protocol string
	addr     netip.AddrPort
}

func compareKeys(a, b bindKey) int {
	if a.addr.Port() != b.addr.Port() {
		return int(a.addr.Port()) - int(b.addr.Port())
	}
	if a.protocol != b.protocol {
		if a.protocol < b.protocol {
			return -1
		}
		return 1
	}
	return a.addr.Addr().Compare(b.addr.Addr())
}

// A port is a wanted address.
type port struct {
	key      bindKey
	guest    uint16    // the port in the guest
	wants    []want    // of the bindings, in the order in which they came
	listener io.Closer // nil while not bound
	absent   bool      // the host has no such address family: nothing to say
	problem  *Problem
	retry    time.Time // zero: never
	delay    time.Duration
}

type news struct {
	problem Problem
	solved  bool
}

func newPublisher(n *Network) *publisher {
	p := &publisher{n: n, wake: make(chan struct{}, 1), ports: map[bindKey]*port{}, doors: map[netip.AddrPort]bool{}}
	n.spawn(p.run)
	return p
}

// want binds what is asked for, as a whole or not at all if that is firm.
func (p *publisher) want(pub Publication, places []place) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return ErrClosed
	}
	if p.bindings >= maxBindings || !p.has(pub) && p.distinct() >= MaxPorts {
		return fmt.Errorf("publishing port %d: the machine publishes %d ports already, which is the most", pub.Port, MaxPorts)
	}
	p.bindings++
	told := len(p.news)
	for i, place := range places {
		port := p.add(pub, place)
		if problem := p.against(pub, place, port); problem != nil && pub.Firm {
			p.remove(pub, places[:i+1])
			p.news = p.news[:told] // who asks is told, and nobody else
			return &Refusal{*problem}
		}
	}
	p.notify()
	return nil
}

// against is why a firm publication is refused at a place, nil if it is not.
func (p *publisher) against(pub Publication, place place, port *port) *Problem {
	because := func(cause error, who string) *Problem {
		return &Problem{Protocol: pub.Protocol, Address: port.key.addr, Cause: cause, Holder: Holder{Who: who}}
	}
	switch {
	case place.need == extra:
		return nil
	case place.need == named && p.doors[port.key.addr]:
		return because(syscall.EADDRINUSE, "hyve, for this machine")
	case place.need == named && port.absent:
		return because(syscall.EADDRNOTAVAIL, "")
	case port.guest != pub.Guest:
		return because(syscall.EADDRINUSE, "another container of this machine")
	case place.need == shared && port.problem != nil && port.problem.Holder.Machine != "" && !pub.Chosen:
		return nil
	}
	return port.problem
}

// add returns a port that is bound if it can be, and counts who wants it.
func (p *publisher) add(pub Publication, place place) *port {
	key := bindKey{pub.Protocol, netip.AddrPortFrom(place.ip, pub.Port)}
	one := p.ports[key]
	if one == nil {
		one = &port{key: key, guest: pub.Guest, delay: retryFirst}
		p.ports[key] = one
	}
	one.wants = append(one.wants, want{pub.Guest, place.need})
	p.lead(one)
	if one.listener == nil {
		p.open(one)
	}
	return one
}

// has tells whether the port is published already, at whatever address.
func (p *publisher) has(pub Publication) bool {
	for key := range p.ports {
		if key.protocol == pub.Protocol && key.addr.Port() == pub.Port {
			return true
		}
	}
	return false
}

// distinct counts the ports, however many addresses each has.
func (p *publisher) distinct() int {
	type number struct {
		protocol string
		port     uint16
	}
	seen := map[number]bool{}
	for key := range p.ports {
		seen[number{key.protocol, key.addr.Port()}] = true
	}
	return len(seen)
}

func (p *publisher) unwant(pub Publication, places []place) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return
	}
	p.remove(pub, places)
	p.notify()
}

func (p *publisher) remove(pub Publication, places []place) {
	p.bindings--
	for _, place := range places {
		port := p.ports[bindKey{pub.Protocol, netip.AddrPortFrom(place.ip, pub.Port)}]
		if port.forget(want{pub.Guest, place.need}); len(port.wants) > 0 {
			p.lead(port)
			continue
		}
		p.unbind(port)
		p.solved(port)
		delete(p.ports, port.key)
	}
}

// close closes the listeners; run, and what they accepted, ends with the
// Network.
func (p *publisher) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = true
	for _, port := range p.ports {
		p.unbind(port)
	}
	clear(p.ports)
}

// notify wakes run.
func (p *publisher) notify() {
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

// run retries and tells the news.
func (p *publisher) run() {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-p.n.ctx.Done():
			return
		case <-p.wake:
		case <-timer.C:
		}
		next, news := p.retry()
		if tell := p.n.config.OnProblem; tell != nil {
			for _, one := range news {
				tell(one.problem, one.solved)
			}
		}
		timer.Stop()
		if !next.IsZero() {
			timer.Reset(max(time.Until(next), 0))
		}
	}
}

// retry binds what is due, and returns when to come again and what is new.
func (p *publisher) retry() (next time.Time, list []news) {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	for _, port := range p.ports {
		if !port.retry.IsZero() && !port.retry.After(now) {
			p.open(port)
		}
	}
	for _, port := range p.ports {
		if !port.retry.IsZero() && (next.IsZero() || port.retry.Before(next)) {
			next = port.retry
		}
	}
	list, p.news = p.news, nil
	return next, list
}

func (p *publisher) unbind(port *port) {
	if port.listener != nil {
		_ = port.listener.Close()
		port.listener = nil
		p.n.listened.Give("")
	}
}

// open binds one address, or notes why not.
func (p *publisher) open(port *port) {
	addr := port.key.addr
	if p.doors[addr] {
		port.absent = true // for containers
		return
	}
	err := p.bind(port)
	port.absent = err != nil && missingFamily(addr.Addr(), err)
	switch {
	case err == nil, port.absent:
		p.solved(port)
	default:
		p.failed(port, err)
	}
}

// bind takes one of the descriptors that published ports may have.
func (p *publisher) bind(port *port) (err error) {
	if !p.n.listened.Take("") {
		return syscall.EMFILE
	}
	switch port.key.protocol {
	case "tcp":
		port.listener, err = p.n.publishTCP(port.key.addr, port.guest)
	case "udp":
		port.listener, err = p.n.publishUDP(port.key.addr, port.guest)
	default:
		err = syscall.EPROTONOSUPPORT
	}
	if err != nil {
		p.n.listened.Give("")
	}
	return err
}

// failed notes why a port is not bound. Who has it is looked up once, which takes a while.
func (p *publisher) failed(port *port, err error) {
	if problem := (Problem{Protocol: port.key.protocol, Address: port.key.addr, Cause: cause(err)}); port.problem == nil || port.problem.Cause != problem.Cause {
		if problem.Cause == syscall.EADDRINUSE {
			problem.Holder = holderOf(problem.Protocol, problem.Address)
		}
		p.news = append(p.news, news{problem, false})
		port.problem = &problem
	}
	if port.problem.Cause == syscall.EPROTONOSUPPORT {
		return
	}
	port.retry = time.Now().Add(port.delay)
	port.delay = min(2*port.delay, retryMax)
}

func (p *publisher) solved(port *port) {
	if port.problem != nil {
		p.news = append(p.news, news{*port.problem, true})
	}
	port.problem, port.retry, port.delay = nil, time.Time{}, retryFirst
}
