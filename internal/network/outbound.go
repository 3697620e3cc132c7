package network

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/udp"
	"gvisor.dev/gvisor/pkg/waiter"
)

const (
	// maxDials bounds the guest's connections that are being made at once. More
	// have to try again, which TCP does by itself.
	maxDials = 1024

	// dialTimeout is how long the host tries; the guest's kernel tries again.
	dialTimeout = 30 * time.Second
)

// handleOutbound makes the stack hand over what the guest sends to the world.
func (n *Network) handleOutbound() {
	forwarder := tcp.NewForwarder(n.stack, 0, maxDials, func(r *tcp.ForwarderRequest) {
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
	dst, ok := hostAddress(addrOf(id.LocalAddress))
	if !ok {
		r.Complete(true)
		return
	}
	ctx, cancel := context.WithTimeout(n.ctx, dialTimeout)
	defer cancel()
	var d net.Dialer
	host, err := d.DialContext(ctx, "tcp4", netip.AddrPortFrom(dst, id.LocalPort).String())
	if err != nil {
		n.config.Log.Debug("the guest's connection was not made", "cause", err)
		var ne net.Error
		r.Complete(!errors.As(err, &ne) || !ne.Timeout())
		return
	}
	var wq waiter.Queue
	ep, terr := r.CreateEndpoint(&wq)
	r.Complete(false)
	if terr != nil {
		_ = host.Close()
		return
	}
	relay(host, n.newGuestConn(ep, &wq))
}

// forwardUDP begins a session for a packet that belongs to none. If it returns
// false, the stack answers that the port is unreachable.
func (n *Network) forwardUDP(id stack.TransportEndpointID, pkt *stack.PacketBuffer) bool {
	dst, ok := hostAddress(addrOf(id.LocalAddress))
	if !ok {
		return false
	}
	host, err := net.DialUDP("udp4", nil, net.UDPAddrFromAddrPort(netip.AddrPortFrom(dst, id.LocalPort)))
	if err != nil {
		n.config.Log.Debug("the guest's datagram was not forwarded", "cause", err)
		return false
	}
	return udp.NewForwarder(n.stack, func(r *udp.ForwarderRequest) {
		var wq waiter.Queue
		ep, terr := r.CreateEndpoint(&wq)
		if terr != nil {
			_ = host.Close()
			return
		}
		n.relayUDP(host, ep, &wq)
	}).HandlePacket(id, pkt)
}
