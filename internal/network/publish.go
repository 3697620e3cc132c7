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

// MaxPorts bounds how many ports a machine publishes, TCP and UDP counted apart. A guest
// that is an attacker's could take all of the host's otherwise.
const MaxPorts = 1024

// maxBindings bounds how often they may be asked for: by two wildcards and by name.
const maxBindings = 4 * MaxPorts

// PublishedPort is one address of the host on which a port of the guest is, or
// should be, reachable.
type PublishedPort struct {
	Protocol string         // "tcp", "udp", "sctp"
	Address  netip.AddrPort // of the host
	Problem  *Problem       // nil if it is bound
}

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

// A port is a wanted address.
type port struct {
	key      bindKey
	guest    uint16    // the port in the guest
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
	p := &publisher{n: n, wake: make(chan struct{}, 1), ports: map[bindKey]*port{}, doors: map[netip.AddrPort]bool{}}
	n.spawn(p.run)
	return p
}

// A Binding is a published port.
type Binding struct{ close func() }

// Close takes the port back, unless another Binding wants it too. Connections
// that were made stay.
func (b *Binding) Close() { b.close() }

// A Publication is a port of the guest as it is asked for.
type Publication struct {
	Protocol string // "tcp", "udp"; those of inMachineAlone are known, and refused
	// HostIP is the host's address that the user gave to -p: "0.0.0.0" and "::" are all
	// of a family, "" those of both.
	HostIP string
	Port   uint16 // on the host
	Guest  uint16 // in the guest; 0 means the same
	// Firm asks for a Refusal where the port cannot be had. Otherwise that is a Problem.
	Firm bool
	// Chosen says that any other port would do, too: this one is nobody's wish.
	Chosen bool
}

// inMachineAlone are protocols that programs in the guest serve, and that cannot be passed on.
var inMachineAlone = []string{"sctp", "udplite"}

// Publish binds a port of the guest on the host. docs/ports.md says where, and what is
// refused: by default it listens on the machine's own address and on localhost.
//
// A firm publication is bound where it has to be when Publish returns, or the error is a
// *Refusal. Whatever else cannot be bound is a Problem, told to Config.OnProblem and by
// Ports, and tried again until it can be or the Binding is closed. What inMachineAlone has never can.
// Other errors are about the arguments, or ErrClosed.
func (n *Network) Publish(p Publication) (*Binding, error) {
	alone := slices.Contains(inMachineAlone, p.Protocol)
	if !alone && p.Protocol != "tcp" && p.Protocol != "udp" {
		return nil, fmt.Errorf("publishing port %d: protocol %.10q cannot be published, only tcp and udp", p.Port, p.Protocol)
	}
	if p.Port == 0 {
		return nil, fmt.Errorf("publishing a port: number 0, must be between 1 and 65535")
	}
	if p.Guest == 0 {
		p.Guest = p.Port
	}
	places, err := placesOf(n.config.MachineIP, p.HostIP)
	if err != nil {
		return nil, fmt.Errorf("publishing port %d: %w", p.Port, err)
	}
	if alone {
		places = []place{{loopback4, named}} // it fails anywhere, and one problem says so
	}
	if err := n.ports.want(p, places); err != nil {
		return nil, err
	}
	return &Binding{close: sync.OnceFunc(func() { n.ports.unwant(p, places) })}, nil
}

// Reserve says that the machine itself listens on addr. A port of a container that should
// be there, too, does without.
func (n *Network) Reserve(addr netip.AddrPort) {
	n.ports.mu.Lock()
	defer n.ports.mu.Unlock()
	n.ports.doors[addr] = true
}

// serves tells whether a port of the machine's own address leads into the machine, or to
// its doors: anything else there is a program of the host's.
func (p *publisher) serves(addr netip.AddrPort) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, protocol := range []string{"tcp", "udp"} {
		if port := p.ports[bindKey{protocol, addr}]; port != nil && port.listener != nil {
			return true
		}
	}
	return p.doors[addr]
}

// A place is an address on which a published port listens.
type place struct {
	ip netip.Addr
	// need says what becomes of a publication whose port is taken here.
	need need
}

type need int

const (
	extra  need = iota // it goes without
	shared             // it is refused, unless another machine has it
	own                // it is refused, unless the machine itself has it, see Reserve
	named              // it is refused
)

// placesOf is where a port listens that was published on hostIP: on the machine's own
// address, or on localhost, and nowhere else.
func placesOf(machine netip.Addr, hostIP string) ([]place, error) {
	others := shared
	if machine == loopback4 {
		others = named // there is no address of its own to be reached on instead
	}
	ipv4 := []place{{loopback4, others}, {machine, own}}
	ipv6 := []place{{netip.IPv6Loopback(), others}}
	var list []place
	switch hostIP {
	case "":
		list = append(ipv4, ipv6...)
	case "0.0.0.0":
		list = ipv4
	case "::":
		list = ipv6
	case loopback4.String():
		list = []place{{loopback4, named}, {machine, extra}}
	case machine.String(), netip.IPv6Loopback().String():
		list = []place{{netip.MustParseAddr(hostIP), named}}
	default:
		return nil, beyondError{hostIP, machine}
	}
	return slices.CompactFunc(list, func(a, b place) bool { return a.ip == b.ip }), nil
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
		published := PublishedPort{Protocol: key.protocol, Address: key.addr}
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
	var refusal *Refusal
	for _, place := range places {
		port := p.add(pub, place.ip)
		if problem := p.against(pub, place, port); problem != nil && refusal == nil {
			refusal = &Refusal{*problem}
		}
	}
	if pub.Firm && refusal != nil {
		p.remove(pub, places)
		p.news = p.news[:told] // who asks is told, and nobody else
		return refusal
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
func (p *publisher) add(pub Publication, ip netip.Addr) *port {
	key := bindKey{pub.Protocol, netip.AddrPortFrom(ip, pub.Port)}
	one := p.ports[key]
	if one == nil {
		one = &port{key: key, guest: pub.Guest, delay: retryFirst}
		p.ports[key] = one
	}
	one.wanted++
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
		if port.wanted--; port.wanted > 0 {
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

// withFamily is package net's name for protocol on addresses like a.
func withFamily(protocol string, a netip.Addr) string {
	if a.Is4() {
		return protocol + "4"
	}
	return protocol + "6"
}

func (n *Network) publishTCP(addr netip.AddrPort, guest uint16) (io.Closer, error) {
	var lc net.ListenConfig
	l, err := lc.Listen(context.Background(), withFamily("tcp", addr.Addr()), addr.String())
	if err != nil {
		return nil, err
	}
	f, err := n.ForwardTCP(l, guest)
	if err != nil {
		return nil, err // not a nil *Forward in a Closer
	}
	return f, nil
}
