package network

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"

	"github.com/hyve-vm/hyve/internal/accept"
)

const (
	dnsPort = 53

	// maxQueries bounds the queries that are being answered at once; more are
	// answered "server failure". Each may hold a few sockets for queryTimeout.
	maxQueries = 256

	// maxQuery bounds a query in bytes. Real ones are below 512.
	maxQuery = 4096

	// maxDNSConns bounds the guest's DNS connections over TCP, and dnsConnIdle
	// how long one may say nothing.
	maxDNSConns = 64
	dnsConnIdle = 10 * time.Second
)

// A nameServer answers DNS on the gateway, over UDP and TCP.
type nameServer struct {
	n        *Network
	udp      *gonet.UDPConn
	tcp      *gonet.TCPListener
	resolver *resolver
	queries  chan struct{} // a token for each query
	conns    *accept.Budget
}

func (n *Network) serveDNS() (*nameServer, error) {
	s := &nameServer{
		n:        n,
		resolver: newResolver(),
		queries:  make(chan struct{}, maxQueries),
		conns:    accept.NewBudget(maxDNSConns, maxDNSConns/2),
	}
	s.resolver.sockets = n.lookups
	addr := gatewayAddress(dnsPort)
	var err error
	if s.udp, err = gonet.DialUDP(n.stack, &addr, nil, ipv4.ProtocolNumber); err != nil {
		return nil, fmt.Errorf("listening on the gateway's UDP port %d: %w", dnsPort, err)
	}
	if s.tcp, err = gonet.ListenTCP(n.stack, addr, ipv4.ProtocolNumber); err != nil {
		_ = s.udp.Close()
		return nil, fmt.Errorf("listening on the gateway's TCP port %d: %w", dnsPort, err)
	}
	n.spawn(s.serveUDP)
	n.spawn(s.serveTCP)
	return s, nil
}

func (s *nameServer) close() {
	_ = s.udp.Close()
	_ = s.tcp.Close()
}

func (s *nameServer) serveUDP() {
	b := make([]byte, 64<<10)
	for {
		size, client, err := s.udp.ReadFrom(b)
		if s.n.ctx.Err() != nil {
			return
		}
		if err != nil { // about an answer that a client did not wait for
			continue
		}
		if size > maxQuery {
			continue
		}
		query := append([]byte(nil), b[:size]...)
		reply := func(answer []byte) {
			if answer != nil {
				_, _ = s.udp.WriteTo(answer, client)
			}
		}
		select {
		case s.queries <- struct{}{}:
			s.n.spawn(func() {
				defer func() { <-s.queries }()
				reply(s.resolver.answer(s.n.ctx, query, "udp"))
			})
		default:
			reply(serverFailure(query))
		}
	}
}

func (s *nameServer) serveTCP() {
	door := accept.Door{Budgets: []*accept.Budget{s.conns}, Log: s.n.config.Log}
	door.Serve(s.n.ctx, s.tcp, func(conn net.Conn) {
		defer conn.Close()
		s.serveConn(s.n.ctx, conn)
	})
}

// serveConn answers one query after the other: RFC 1035, 4.2.2 and RFC 7766.
func (s *nameServer) serveConn(ctx context.Context, conn net.Conn) {
	defer context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Now()) })()
	for {
		_ = conn.SetDeadline(time.Now().Add(dnsConnIdle))
		if ctx.Err() != nil {
			return
		}
		query, err := readMessage(conn, maxQuery)
		if err != nil {
			return
		}
		var answer []byte
		select {
		case s.queries <- struct{}{}:
			answer = s.resolver.answer(ctx, query, "tcp")
			<-s.queries
		default:
			answer = serverFailure(query)
		}
		if answer == nil || writeMessage(conn, answer) != nil {
			return
		}
	}
}

// readMessage reads a DNS message of at most limit bytes from a stream.
func readMessage(r io.Reader, limit int) ([]byte, error) {
	var head [2]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return nil, fmt.Errorf("reading a message's length: %w", err)
	}
	size := int(binary.BigEndian.Uint16(head[:]))
	if size > limit {
		return nil, fmt.Errorf("reading a message: %d bytes, at most %d", size, limit)
	}
	b := make([]byte, size)
	if _, err := io.ReadFull(r, b); err != nil {
		return nil, fmt.Errorf("reading a message: %w", err)
	}
	return b, nil
}

func writeMessage(w io.Writer, b []byte) error {
	if len(b) > 0xffff {
		return fmt.Errorf("writing a message: %d bytes, at most %d", len(b), 0xffff)
	}
	framed := binary.BigEndian.AppendUint16(make([]byte, 0, 2+len(b)), uint16(len(b)))
	_, err := w.Write(append(framed, b...))
	return err
}
