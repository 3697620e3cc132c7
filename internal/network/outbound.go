package network

import (
	"context"
	"errors"
	"math"
	"net"
	"net/netip"
	"os"
	"syscall"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/udp"
	"gvisor.dev/gvisor/pkg/waiter"
)

// dialTimeout is how long the host tries; the guest's kernel tries again.
const dialTimeout = 30 * time.Second

// handleOutbound makes the stack hand over what the guest sends to the world.
func (n *Network) handleOutbound() {
	// The stack's own bound would have one container's dials keep out all others'.
	forwarder := tcp.NewForwarder(n.stack, minBuffer/2, math.MaxInt, func(r *tcp.ForwarderRequest) {
		if !n.spawn(func() { n.forwardTCP(r) }) {
			r.Complete(true)
		}
	})
	n.stack.SetTransportProtocolHandler(tcp.ProtocolNumber, forwarder.HandlePacket)
	n.stack.SetTransportProtocolHandler(udp.ProtocolNumber, n.forwardUDP)
}

// forwardTCP makes the guest's connection on the host first, and answers the
// guest when it knows the outcome: a refused connection is refused, one that
// nobody answered goes unanswered.
func (n *Network) forwardTCP(r *tcp.ForwarderRequest) {
	id := r.ID()
	dst, ok := n.destination(addrOf(id.LocalAddress), id.LocalPort)
	if !ok {
		r.Complete(true)
		return
	}
	who := pair{addrOf(id.RemoteAddress), addrOf(id.LocalAddress)}
	host, guest := n.dialFor(r, who, netip.AddrPortFrom(dst, id.LocalPort))
	if guest == nil {
		return
	}
	guest.member = n.outbound.enter(who, guest.abort)
	defer n.outbound.leave(guest.member)
	relay(host, guest)
}

// dialFor makes both halves of the guest's connection to dst, or completes r without.
func (n *Network) dialFor(r *tcp.ForwarderRequest, who pair, dst netip.AddrPort) (net.Conn, *guestConn) {
	id := r.ID()
	ctx, cancel := context.WithTimeout(n.ctx, dialTimeout)
	defer cancel()
	member := n.dials.enter(who, func() {
		cancel()
		n.abortHandshake(id)
	})
	defer n.dials.leave(member)
	var d net.Dialer
	host, err := d.DialContext(ctx, "tcp4", dst.String())
	if err != nil {
		n.config.Log.Debug("the guest's connection was not made", "cause", err)
		var ne net.Error
		unanswered := errors.As(err, &ne) && ne.Timeout() || ctx.Err() != nil || lacking(err)
		r.Complete(!unanswered)
		return nil, nil
	}
	var wq waiter.Queue
	ep, terr := r.CreateEndpoint(&wq)
	r.Complete(false)
	if terr != nil || ctx.Err() != nil {
		if ep != nil {
			ep.Abort()
		}
		_ = host.Close()
		return nil, nil
	}
	return host, n.newGuestConn(ep, &wq)
}

// lacking tells a lack of descriptors, which says nothing about the peer.
func lacking(err error) bool { return errors.Is(err, syscall.EMFILE) || errors.Is(err, syscall.ENFILE) }

// abortHandshake ends a connection to the guest that the guest has yet to confirm.
func (n *Network) abortHandshake(id stack.TransportEndpointID) {
	if e, ok := n.stack.FindTransportEndpoint(ipv4.ProtocolNumber, tcp.ProtocolNumber, id, nic).(*tcp.Endpoint); ok {
		e.Abort()
	}
}

// dialUDP connects a socket that does not reach broadcast addresses, which Go's otherwise
// do: the host itself would answer there, and every other host of its networks.
func dialUDP(ctx context.Context, to netip.AddrPort) (*net.UDPConn, error) {
	dialer := net.Dialer{Control: func(_, _ string, conn syscall.RawConn) (err error) {
		if bad := conn.Control(func(fd uintptr) {
			err = os.NewSyscallError("setsockopt", syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_BROADCAST, 0))
		}); bad != nil {
			return bad
		}
		return err
	}}
	conn, err := dialer.DialContext(ctx, "udp4", to.String())
	if err != nil {
		return nil, err
	}
	return conn.(*net.UDPConn), nil
}

// forwardUDP begins a session for a packet that belongs to none. If it returns
// false, the stack answers that the port is unreachable.
func (n *Network) forwardUDP(id stack.TransportEndpointID, pkt *stack.PacketBuffer) bool {
	dst, ok := n.destination(addrOf(id.LocalAddress), id.LocalPort)
	if !ok {
		return false
	}
	host, err := dialUDP(n.ctx, netip.AddrPortFrom(dst, id.LocalPort))
	if err != nil {
		n.config.Log.Debug("the guest's datagram was not forwarded", "cause", err)
		return false
	}
	return udp.NewForwarder(n.stack, func(r *udp.ForwarderRequest) bool {
		var wq waiter.Queue
		ep, terr := r.CreateEndpoint(&wq)
		if terr != nil {
			_ = host.Close()
			return true
		}
		n.relayUDP(host, ep, &wq)
		return true
	}).HandlePacket(id, pkt)
}
