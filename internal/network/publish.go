package network

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
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

// PublishedPort is one address of the host on which a port of the guest is, or
// should be, reachable.
type PublishedPort struct {
	Protocol string         // "tcp", "udp"
	Address  netip.AddrPort // of the host
	Port     uint16         // of the guest
	Problem  *Problem       // nil if it is bound
}

// A publisher keeps the published ports. Several bindings may want one address;
// it is bound while one of them does.
type publisher struct {
	n    *Network
	wake chan struct{} // something for run to do

	mu     sync.Mutex
	closed bool
	ports  map[bindKey]*port
	news   []news // for Config.OnProblem
}

type bindKey struct {
	protocol string
	addr     netip.AddrPort
}

// A port is a wanted address.
type port struct {
	key      bindKey
	wanted   int       // by how many bindings
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
	p := &publisher{n: n, wake: make(chan struct{}, 1), ports: map[bindKey]*port{}}
	n.spawn(p.run)
	return p
}

// A Binding is a published port.
type Binding struct{ close func() }

// Close takes the port back, unless another Binding wants it too. Connections
// that were made stay.
func (b *Binding) Close() { b.close() }

// Publish binds a port of the guest on the host: protocol is "tcp" or "udp",
// hostIP what the user gave to -p.
//
// For all addresses ("", "0.0.0.0", "::") and for 127.0.0.1 and ::1 the port is
// bound on the machine's own address, and on 127.0.0.1 and ::1 as well where
// nobody, another machine for instance, has it. Another address of the loopback is
// bound as it is; one beyond it is a Problem.
//
// An address that cannot be bound is no error but a Problem, told to
// Config.OnProblem and by Ports, and tried again until it can be or the Binding
// is closed. When Publish returns, everything that can be bound is. Errors are
// about the arguments, or ErrClosed.
func (n *Network) Publish(protocol, hostIP string, guestPort uint16) (*Binding, error) {
	if protocol != "tcp" && protocol != "udp" {
		return nil, fmt.Errorf("publishing port %d: protocol %q, must be tcp or udp", guestPort, protocol)
	}
	if guestPort == 0 {
		return nil, fmt.Errorf("publishing a port: number 0, must be between 1 and 65535")
	}
	ips, err := bindAddresses(n.config.MachineIP, hostIP)
	if err != nil {
		return nil, fmt.Errorf("publishing port %d: %w", guestPort, err)
	}
	keys := make([]bindKey, len(ips))
	for i, ip := range ips {
		keys[i] = bindKey{protocol, netip.AddrPortFrom(ip, guestPort)}
	}
	if !n.ports.want(keys) {
		return nil, ErrClosed
	}
	return &Binding{close: sync.OnceFunc(func() { n.ports.unwant(keys) })}, nil
}

// bindAddresses is where a published port listens.
func bindAddresses(machine netip.Addr, hostIP string) ([]netip.Addr, error) {
	ip := netip.IPv4Unspecified()
	if hostIP != "" {
		var err error
		if ip, err = netip.ParseAddr(hostIP); err != nil {
			return nil, fmt.Errorf("host address %q: %w", hostIP, err)
		}
		ip = ip.Unmap()
	}
	if !ip.IsUnspecified() && ip != loopback4 && ip != netip.IPv6Loopback() {
		return []netip.Addr{ip}, nil
	}
	loopback := []netip.Addr{machine, loopback4, netip.IPv6Loopback()}
	slices.SortFunc(loopback, netip.Addr.Compare)
	return slices.Compact(loopback), nil
}

// Ports returns the published ports in a stable order.
func (n *Network) Ports() []PublishedPort {
	p := n.ports
	p.mu.Lock()
	defer p.mu.Unlock()
	var list []PublishedPort
	for key, port := range p.ports {
		if port.absent {
			continue
		}
		published := PublishedPort{Protocol: key.protocol, Address: key.addr, Port: key.addr.Port()}
		if port.problem != nil {
			problem := *port.problem
			published.Problem = &problem
		}
		list = append(list, published)
	}
	slices.SortFunc(list, func(a, b PublishedPort) int {
		return compareKeys(bindKey{a.Protocol, a.Address}, bindKey{b.Protocol, b.Address})
	})
	return list
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

func (p *publisher) want(keys []bindKey) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return false
	}
	for _, key := range keys {
		if p.ports[key] == nil {
			p.ports[key] = &port{key: key, delay: retryFirst}
		}
		p.ports[key].wanted++
		if p.ports[key].listener == nil {
			p.open(p.ports[key])
		}
	}
	p.notify()
	return true
}

func (p *publisher) unwant(keys []bindKey) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return
	}
	for _, key := range keys {
		port := p.ports[key]
		if port.wanted--; port.wanted > 0 {
			continue
		}
		p.unbind(port)
		p.solved(port)
		delete(p.ports, key)
	}
	p.notify()
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
	if !addr.Addr().IsLoopback() {
		p.failed(port, errBeyondLoopback, false)
		return
	}
	err := p.bind(port)
	port.absent = err != nil && missingFamily(addr.Addr(), err)
	switch {
	case err == nil, port.absent:
		p.solved(port)
	default:
		p.failed(port, err, true)
	}
}

// bind takes one of the descriptors that published ports may have.
func (p *publisher) bind(port *port) (err error) {
	if !p.n.listened.Take("") {
		return syscall.EMFILE
	}
	if port.key.protocol == "tcp" {
		port.listener, err = p.n.publishTCP(port.key.addr)
	} else {
		port.listener, err = p.n.publishUDP(port.key.addr)
	}
	if err != nil {
		p.n.listened.Give("")
	}
	return err
}

func (p *publisher) failed(port *port, err error, again bool) {
	problem := Problem{Protocol: port.key.protocol, Address: port.key.addr, Cause: cause(err)}
	if port.problem == nil || port.problem.Cause != problem.Cause {
		p.news = append(p.news, news{problem, false})
	}
	port.problem = &problem
	if again {
		port.retry = time.Now().Add(port.delay)
		port.delay = min(2*port.delay, retryMax)
	}
}

func (p *publisher) solved(port *port) {
	if port.problem != nil {
		p.news = append(p.news, news{*port.problem, true})
	}
	port.problem, port.retry, port.delay = nil, time.Time{}, retryFirst
}

// withFamily is package net's name for protocol on addresses like a.
func withFamily(protocol string, a netip.Addr) string {
	if a.Is4() {
		return protocol + "4"
	}
	return protocol + "6"
}

func (n *Network) publishTCP(addr netip.AddrPort) (io.Closer, error) {
	var lc net.ListenConfig
	l, err := lc.Listen(context.Background(), withFamily("tcp", addr.Addr()), addr.String())
	if err != nil {
		return nil, err
	}
	f, err := n.ForwardTCP(l, addr.Port())
	if err != nil {
		return nil, err // not a nil *Forward in a Closer
	}
	return f, nil
}
