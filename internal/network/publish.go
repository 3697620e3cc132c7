package network

import (
	"fmt"
	"io"
	"net/netip"
	"slices"
	"sync"

	"github.com/hyve-vm/hyve/internal/accept"
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

// withFamily is package net's name for protocol on addresses like a.
func withFamily(protocol string, a netip.Addr) string {
	if a.Is4() {
		return protocol + "4"
	}
	return protocol + "6"
}

func (n *Network) publishTCP(addr netip.AddrPort, guest uint16) (io.Closer, error) {
	l, err := accept.Listen(addr)
	if err != nil {
		return nil, err
	}
	f, err := n.ForwardTCP(l, guest)
	if err != nil {
		return nil, err // not a nil *Forward in a Closer
	}
	return f, nil
}
