// Package dns answers a guest's queries: what resolves on the host resolves in the guest, to the
// same addresses, and fails in the same way.
package dns

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/hyve-vm/hyve/internal/accept"
)

// Port is where DNS is asked for, over UDP and TCP.
const Port = 53

const (
	// maxQueries bounds the queries that are being answered at once; more are
	// answered "server failure". Each may hold a few sockets for queryTimeout.
	maxQueries = 256

	// maxQuery bounds a query in bytes. Real ones are below 512.
	maxQuery = 4096

	// maxConns bounds the connections over TCP, and connIdle
	// how long one may say nothing.
	maxConns = 64
	connIdle = 10 * time.Second
)

// A Config is what a server has of its network.
type Config struct {
	// Host is where the guest finds the host's 127.0.0.1, and Gateway where it finds the
	// server. Both are IPv4, and of one /24, whose other addresses have no names.
	Host, Gateway netip.Addr
	// Sockets bounds those that ask name servers; nil is no bound.
	Sockets *accept.Budget
	Log     *slog.Logger
}

// A Server answers queries over UDP and TCP.
type Server struct {
	resolver *resolver
	queries  chan struct{} // a token for each query
	conns    *accept.Budget
	log      *slog.Logger
}

// New returns a server that knows what this process's host knows.
func New(c Config) *Server {
	return &Server{
		resolver: newResolver(c),
		queries:  make(chan struct{}, maxQueries),
		conns:    accept.NewBudget(maxConns, maxConns/2),
		log:      c.Log,
	}
}

// ServeUDP answers the queries that come to conn. When ctx is done it closes conn, waits for
// the answers under way, and returns.
func (s *Server) ServeUDP(ctx context.Context, conn net.PacketConn) {
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { _ = conn.Close() })()
	var underWay sync.WaitGroup
	defer underWay.Wait()
	b := make([]byte, 64<<10)
	for {
		size, client, err := conn.ReadFrom(b)
		if ctx.Err() != nil {
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
				_, _ = conn.WriteTo(answer, client)
			}
		}
		select {
		case s.queries <- struct{}{}:
			underWay.Go(func() {
				defer func() { <-s.queries }()
				reply(s.resolver.answer(ctx, query, "udp"))
			})
		default:
			reply(serverFailure(query))
		}
	}
}

// ServeTCP answers the queries of the connections to l, until ctx is done, and closes l then.
func (s *Server) ServeTCP(ctx context.Context, l net.Listener) {
	door := accept.Door{Budgets: []*accept.Budget{s.conns}, Log: s.log}
	door.Serve(ctx, l, func(conn net.Conn) {
		defer conn.Close()
		s.serveConn(ctx, conn)
	})
}

// serveConn answers one query after the other: RFC 1035, 4.2.2 and RFC 7766.
func (s *Server) serveConn(ctx context.Context, conn net.Conn) {
	defer context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Now()) })()
	for {
		_ = conn.SetDeadline(time.Now().Add(connIdle))
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
