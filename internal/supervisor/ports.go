package supervisor

import (
	"errors"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"syscall"

	"github.com/hyve-vm/hyve/internal/control"
	"github.com/hyve-vm/hyve/internal/guestapi"
	"github.com/hyve-vm/hyve/internal/hint"
	"github.com/hyve-vm/hyve/internal/machine"
	"github.com/hyve-vm/hyve/internal/network"
)

// ports publishes on the host what containers publish in the guest.
type ports struct {
	network *network.Network
	board   *board
	log     *slog.Logger

	mu   sync.Mutex
	open map[uint64]*network.Binding // by the guest's number
}

// opened publishes a port. When it returns, clients can connect, the status says why not,
// or the answer says why it could not be published.
func (p *ports) opened(port *guestapi.PortOpened) guestapi.PortAck {
	p.mu.Lock()
	defer p.mu.Unlock()
	ack := guestapi.PortAck{ID: port.ID}
	if p.open[port.ID] != nil {
		return ack // a repeated message
	}
	binding, err := p.network.Publish(network.Publication{
		Protocol: port.Protocol.String(), HostIP: port.HostIP.String(), Port: port.Port, Guest: port.GuestPort,
		Firm: port.Firm, Chosen: port.Chosen})
	if err != nil {
		p.log.Warn("port refused", "error", err, "protocol", port.Protocol, "port", port.Port)
		if port.Firm {
			ack.Refused, ack.Taken = refusal(err), errors.Is(err, syscall.EADDRINUSE)
		} else {
			p.board.complaint(err.Error())
		}
		return ack
	}
	if p.open == nil {
		p.open = map[uint64]*network.Binding{}
	}
	p.open[port.ID] = binding
	p.log.Info("port published", "protocol", port.Protocol, "hostIP", port.HostIP, "port", port.Port)
	p.show()
	return ack
}

// refusal is an error as docker prints it, with the way out behind it.
func refusal(err error) string {
	text := err.Error()
	if way := hint.Of(err); way != "" {
		text += "; " + way
	}
	return text
}

// closed takes a port back.
func (p *ports) closed(id uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if binding := p.open[id]; binding != nil {
		binding.Close()
		delete(p.open, id)
	}
	p.show()
}

// clear takes all ports back: their containers are gone.
func (p *ports) clear() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for id, binding := range p.open {
		binding.Close()
		delete(p.open, id)
	}
	p.show()
}

// show publishes the list of what can be reached.
func (p *ports) show() {
	var list []control.Port
	for _, port := range p.network.Ports() {
		if port.Problem == nil {
			list = append(list, control.Port{
				Protocol: port.Protocol,
				Address:  port.Address.Addr().String(),
				Port:     port.Address.Port(),
			})
		}
	}
	p.board.set(func(s *control.Status) { s.Ports = list })
}

func hostAccess(m *machine.Machine) network.HostAccess {
	all, ports := m.HostPorts()
	return network.HostAccess{Restricted: !all, Ports: ports}
}

// setHostAccess changes which ports of the host the guest reaches, now or when there is a network.
func (s *supervisor) setHostAccess(access network.HostAccess) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.access = access
	if s.net != nil {
		s.net.SetHostAccess(access)
	}
}

// networkConfig is a machine's network. Ports that cannot be bound become
// problems of its status until they can.
func (s *supervisor) networkConfig(m *machine.Machine) network.Config {
	lines := map[network.Problem]string{} // as they are shown
	return network.Config{
		MachineIP: m.Address,
		Log:       s.log,
		OnProblem: func(problem network.Problem, solved bool) {
			line, ok := lines[problem]
			if !ok {
				line = problem.Error()
				own := netip.AddrPortFrom(m.Address, problem.Address.Port())
				if problem.Address != own && problem.Address.Addr() != netip.IPv6Loopback() && serves(s.net.Ports(), problem.Protocol, own) {
					line += "; it is reachable on " + own.String()
				}
			}
			lines[problem] = line
			if solved {
				delete(lines, problem)
				s.log.Info("solved", "problem", line)
				s.board.solved(line)
			} else {
				s.log.Warn(line, "hint", problem.Hint())
				s.board.problem(line)
			}
			s.guest.ports.refresh()
		},
	}
}

// serves tells whether one of the ports listens on an address.
func serves(ports []network.PublishedPort, protocol string, addr netip.AddrPort) bool {
	return slices.ContainsFunc(ports, func(p network.PublishedPort) bool {
		return p.Protocol == protocol && p.Address == addr && p.Problem == nil
	})
}

// refresh shows the ports again.
func (p *ports) refresh() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.show()
}
