package network

import (
	"net"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/net/icmp"
	"golang.org/x/net/ipv4"
	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/checksum"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
)

const (
	// maxPings bounds the programs of the guest that ping at once.
	maxPings = 64

	// pingIdle is how long an answer may take.
	pingIdle = 10 * time.Second
)

// A pinger passes on the guest's pings of the world, over the ICMP sockets that
// Linux and macOS have for ordinary users, so that an answer means what it
// should. Linux gives them to the groups in net.ipv4.ping_group_range (all, in
// most distributions); without them there is no answer.
type pinger struct {
	n *Network

	mu    sync.Mutex
	flows map[pingKey]*icmp.PacketConn
}

// A pingKey is one program of the guest that pings.
type pingKey struct {
	src, dst netip.Addr
	id       uint16 // of the guest's echo requests
}

// echo passes on an echo request, which is a whole frame that ingress has
// checked.
func (p *pinger) echo(frame []byte) {
	eth := header.Ethernet(frame)
	ip := header.IPv4(frame[header.EthernetMinimumSize:])
	request := header.ICMPv4(ip.Payload())
	key := pingKey{addrOf(ip.SourceAddress()), addrOf(ip.DestinationAddress()), request.Ident()}
	if _, ok := p.n.destination(key.dst, 0); !ok {
		return
	}
	conn := p.flow(key, eth.SourceAddress())
	if conn == nil {
		return
	}
	msg := icmp.Message{Type: ipv4.ICMPTypeEcho, Body: &icmp.Echo{
		ID: int(request.Ident()), Seq: int(request.Sequence()), Data: request.Payload(),
	}}
	b, err := msg.Marshal(nil)
	if err != nil {
		return
	}
	_ = conn.SetReadDeadline(time.Now().Add(pingIdle))
	if _, err := conn.WriteTo(b, &net.UDPAddr{IP: key.dst.AsSlice()}); err != nil {
		p.n.config.Log.Debug("the guest's ping was not sent", "cause", err)
	}
}

// flow returns the socket of a program that pings, or nil if there is none.
func (p *pinger) flow(key pingKey, mac tcpip.LinkAddress) *icmp.PacketConn {
	p.mu.Lock()
	defer p.mu.Unlock()
	if conn := p.flows[key]; conn != nil || len(p.flows) >= maxPings || p.n.ctx.Err() != nil {
		return conn
	}
	conn, err := icmp.ListenPacket("udp4", "0.0.0.0")
	if err != nil {
		p.n.config.Log.Debug("the guest's ping was not sent", "cause", err)
		return nil
	}
	if !p.n.spawn(func() { p.answer(conn, key, mac) }) {
		_ = conn.Close()
		return nil
	}
	if p.flows == nil {
		p.flows = map[pingKey]*icmp.PacketConn{}
	}
	p.flows[key] = conn
	return conn
}

// answer passes replies on until there are none for pingIdle.
func (p *pinger) answer(conn *icmp.PacketConn, key pingKey, mac tcpip.LinkAddress) {
	defer func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		delete(p.flows, key)
		_ = conn.Close()
	}()
	_ = conn.SetReadDeadline(time.Now().Add(pingIdle))
	b := make([]byte, 64<<10)
	for {
		n, from, err := conn.ReadFrom(b)
		if err != nil {
			return
		}
		msg, err := icmp.ParseMessage(int(header.ICMPv4ProtocolNumber), b[:n])
		if err != nil || msg.Type != ipv4.ICMPTypeEchoReply {
			continue
		}
		body, ok := msg.Body.(*icmp.Echo)
		if !ok || from.(*net.UDPAddr).AddrPort().Addr().Unmap() != key.dst {
			continue
		}
		if w := p.n.link.wire.Load(); w != nil && len(body.Data) <= p.n.MTU()-header.IPv4MinimumSize-header.ICMPv4MinimumSize {
			pkt := stack.NewPacketBuffer(stack.PacketBufferOptions{
				Payload: buffer.MakeWithData(echoReply(key, mac, uint16(body.Seq), body.Data)),
			})
			w.send([]*stack.PacketBuffer{pkt})
			pkt.DecRef()
		}
	}
}

func (p *pinger) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, conn := range p.flows {
		_ = conn.SetReadDeadline(time.Unix(1, 0)) // answer closes it
	}
}

// echoReply builds the frame of a reply to the guest.
func echoReply(key pingKey, mac tcpip.LinkAddress, seq uint16, data []byte) []byte {
	const start = header.EthernetMinimumSize + header.IPv4MinimumSize
	frame := append(make([]byte, start+header.ICMPv4MinimumSize), data...)
	header.Ethernet(frame).Encode(&header.EthernetFields{
		SrcAddr: mustLinkAddress(GatewayMAC), DstAddr: mac, Type: header.IPv4ProtocolNumber,
	})
	ip := header.IPv4(frame[header.EthernetMinimumSize:])
	ip.Encode(&header.IPv4Fields{
		TotalLength: uint16(len(ip)),
		TTL:         64,
		Protocol:    uint8(header.ICMPv4ProtocolNumber),
		SrcAddr:     tcpip.AddrFrom4(key.dst.As4()),
		DstAddr:     tcpip.AddrFrom4(key.src.As4()),
	})
	ip.SetChecksum(^ip.CalculateChecksum())
	reply := header.ICMPv4(frame[start:])
	reply.SetType(header.ICMPv4EchoReply)
	reply.SetIdent(key.id)
	reply.SetSequence(seq)
	reply.SetChecksum(^checksum.Checksum(reply, 0))
	return frame
}
