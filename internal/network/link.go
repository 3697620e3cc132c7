package network

import (
	"sync"
	"sync/atomic"

	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
)

// A link is the gateway's network card: the lower end of the stack. Its cable,
// the wire, comes and goes with the hypervisor; without one, packets are lost,
// as on an unplugged card, unless the network is held.
type link struct {
	mtu uint32
	mac tcpip.LinkAddress

	ping func(frame []byte)               // takes echo requests to the world
	hear func(ip header.IPv4) (drop bool) // listens to what goes to the stack

	in, out atomic.Int64 // bytes to and from the guest

	wire atomic.Pointer[wire]
	hold atomic.Pointer[hold] // nil unless the network is held

	mu         sync.RWMutex
	dispatcher stack.NetworkDispatcher
	closed     bool
}

var _ stack.LinkEndpoint = (*link)(nil)

func newLink(mtu uint32) *link {
	return &link{mtu: mtu, mac: mustLinkAddress(GatewayMAC)}
}

// attach makes w the wire and closes the one that it replaces, which it returns.
func (l *link) attach(w *wire) *wire {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		w.close()
		return nil
	}
	old := l.wire.Swap(w)
	if old != nil {
		old.close()
	}
	l.release(w)
	return old
}

// release ends a hold; what was kept goes to w.
func (l *link) release(w *wire) {
	if h := l.hold.Swap(nil); h != nil {
		kept := h.end()
		w.send(kept)
		release(kept)
	}
}

// detach closes w and reports whether it was still the wire.
func (l *link) detach(w *wire) bool {
	w.close()
	return l.wire.CompareAndSwap(w, nil)
}

func (l *link) connected() bool { return l.wire.Load() != nil }

func (l *link) close() {
	l.mu.Lock()
	l.closed = true
	l.mu.Unlock()
	if w := l.wire.Swap(nil); w != nil {
		w.close()
	}
}

// deliver takes over one frame from the wire.
func (l *link) deliver(frame *buffer.View) {
	l.out.Add(int64(frame.Size()))
	protocol, verdict := ingress(frame.AsSlice())
	if verdict == admit && protocol == header.IPv4ProtocolNumber && l.hear(header.IPv4(frame.AsSlice()[header.EthernetMinimumSize:])) {
		verdict = drop
	}
	if verdict == ping {
		l.ping(frame.AsSlice())
	}
	l.mu.RLock()
	d := l.dispatcher
	l.mu.RUnlock()
	if verdict != admit || d == nil {
		frame.Release()
		return
	}
	if protocol == header.IPv4ProtocolNumber {
		frame = fitted(frame)
	}
	frame.TrimFront(header.EthernetMinimumSize)
	pkt := stack.NewPacketBuffer(stack.PacketBufferOptions{Payload: buffer.MakeWithView(frame)})
	d.DeliverNetworkPacket(protocol, pkt)
	pkt.DecRef()
}

// fitted takes over a frame of IPv4, whose header has been checked, and returns it without
// what is behind the packet. The stack counts a packet that waits by its own length, so 64
// KiB behind each would be memory that nothing bounds.
func fitted(frame *buffer.View) *buffer.View {
	size := header.EthernetMinimumSize + int(header.IPv4(frame.AsSlice()[header.EthernetMinimumSize:]).TotalLength())
	if size == frame.Size() {
		return frame
	}
	defer frame.Release()
	return buffer.NewViewWithData(frame.AsSlice()[:size])
}

// WritePackets implements stack.LinkWriter. Packets that cannot be sent are
// lost without an error, as on a real Ethernet: TCP sends them again.
func (l *link) WritePackets(pkts stack.PacketBufferList) (int, tcpip.Error) {
	list := pkts.AsSlice()
	w, h := l.wire.Load(), l.hold.Load()
	if w == nil && h == nil {
		return len(list), nil
	}
	for _, pkt := range list {
		l.addEthernet(pkt)
		l.in.Add(int64(pkt.Size()))
	}
	if h != nil {
		h.keep(list)
	} else {
		w.send(list)
	}
	return len(list), nil
}

// askGuest asks the guest for its address, as any neighbour may: one that lives answers.
func (l *link) askGuest() {
	w := l.wire.Load()
	if w == nil {
		return
	}
	frame := make([]byte, header.EthernetMinimumSize+header.ARPSize)
	header.Ethernet(frame).Encode(&header.EthernetFields{
		SrcAddr: l.mac, DstAddr: header.EthernetBroadcastAddress, Type: header.ARPProtocolNumber,
	})
	arp := header.ARP(frame[header.EthernetMinimumSize:])
	arp.SetIPv4OverEthernet()
	arp.SetOp(header.ARPRequest)
	copy(arp.HardwareAddressSender(), l.mac)
	copy(arp.ProtocolAddressSender(), gatewayIP.AsSlice())
	copy(arp.ProtocolAddressTarget(), guestIP.AsSlice())
	pkt := stack.NewPacketBuffer(stack.PacketBufferOptions{Payload: buffer.MakeWithData(frame)})
	w.send([]*stack.PacketBuffer{pkt})
	pkt.DecRef()
}

func (l *link) addEthernet(pkt *stack.PacketBuffer) {
	src := pkt.EgressRoute.LocalLinkAddress
	if src == "" {
		src = l.mac
	}
	eth := header.Ethernet(pkt.LinkHeader().Push(header.EthernetMinimumSize))
	eth.Encode(&header.EthernetFields{
		SrcAddr: src,
		DstAddr: pkt.EgressRoute.RemoteLinkAddress,
		Type:    pkt.NetworkProtocolNumber,
	})
}

// Attach implements stack.LinkEndpoint.
func (l *link) Attach(d stack.NetworkDispatcher) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.dispatcher = d
}

// IsAttached implements stack.LinkEndpoint.
func (l *link) IsAttached() bool {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return l.dispatcher != nil
}

// Capabilities implements stack.LinkEndpoint. Checksums of what arrives are not
// verified: a unix socket does not flip bits.
func (l *link) Capabilities() stack.LinkEndpointCapabilities {
	return stack.CapabilityResolutionRequired | stack.CapabilityRXChecksumOffload
}

// MTU implements stack.LinkEndpoint.
func (l *link) MTU() uint32 { return l.mtu }

// SetMTU implements stack.LinkEndpoint; the MTU is fixed by New.
func (l *link) SetMTU(uint32) {}

// MaxHeaderLength implements stack.LinkEndpoint.
func (l *link) MaxHeaderLength() uint16 { return header.EthernetMinimumSize }

// LinkAddress implements stack.LinkEndpoint.
func (l *link) LinkAddress() tcpip.LinkAddress { return l.mac }

// SetLinkAddress implements stack.LinkEndpoint; the address is a constant.
func (l *link) SetLinkAddress(tcpip.LinkAddress) {}

// ARPHardwareType implements stack.LinkEndpoint.
func (l *link) ARPHardwareType() header.ARPHardwareType { return header.ARPHardwareEther }

// AddHeader implements stack.LinkEndpoint; WritePackets does it.
func (l *link) AddHeader(*stack.PacketBuffer) {}

// ParseHeader implements stack.LinkEndpoint; deliver has done it.
func (l *link) ParseHeader(*stack.PacketBuffer) bool { return true }

// Wait implements stack.LinkEndpoint; Network.Close waits for the wire.
func (l *link) Wait() {}

// Close implements stack.LinkEndpoint.
func (l *link) Close() {}

// SetOnCloseAction implements stack.LinkEndpoint.
func (l *link) SetOnCloseAction(func()) {}
