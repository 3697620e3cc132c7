// Package accept is the one way to accept connections. Nobody who connects can end a
// listener: a lack of descriptors, and every other error of Accept, is waited out until
// the listener is closed. Nobody can hold more connections than budgets allow: those of
// a listener, of everything together, and of one source in each.
package accept

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"time"
)

// After an error Accept is tried again after firstPause, and at twice the pause each
// time up to longestPause. Nothing tells when there are descriptors again.
const (
	firstPause   = 5 * time.Millisecond
	longestPause = time.Second
)

// logPause is how often a listener's troubles are logged at the most. Clients bring them
// about, as fast as they like.
const logPause = time.Minute

// A Door says what is let in at a listener. The zero Door lets everybody in.
type Door struct {
	// Budgets are what a connection takes one of, each, while it is held. One that
	// finds a budget empty is hung up on at once.
	Budgets []*Budget
	// Source names who has connected; nil means [Source]. It is not called without
	// Budgets.
	Source func(net.Conn) string
	// Log hears of lacks of descriptors and of connections that were not let in; nil
	// is silence.
	Log *slog.Logger
}

// Serve accepts connections on l and runs handle for each, in a goroutine of its own,
// until ctx ends or l is closed. The connection is handle's to close; what it takes of
// the budgets is given back when handle returns. Serve closes l and returns when the last
// handle has returned.
func (d *Door) Serve(ctx context.Context, l net.Listener, handle func(net.Conn)) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(ctx, func() { _ = l.Close() })()
	defer l.Close()
	var handlers sync.WaitGroup
	defer handlers.Wait()
	a := d.acceptor(l)
	for {
		conn, source, err := a.next(ctx)
		if err != nil {
			return
		}
		handlers.Go(func() {
			defer giveAll(d.Budgets, source)
			handle(conn)
		})
	}
}

// Listen listens on a TCP address, without Multipath TCP: it has nothing to gain on a loopback
// or a machine's only card, and a connection of it outlives its client.
func Listen(addr netip.AddrPort) (net.Listener, error) {
	network := "tcp6"
	if addr.Addr().Is4() {
		network = "tcp4"
	}
	var lc net.ListenConfig
	lc.SetMultipathTCP(false)
	return lc.Listen(context.Background(), network, addr.String())
}

// Next returns the next connection on l, for those who want one at a time: it waits out
// what Serve waits out, and counts nothing. It fails when l is closed, or when Accept
// fails after ctx has ended.
func Next(ctx context.Context, l net.Listener) (net.Conn, error) {
	conn, _, err := new(Door).acceptor(l).next(ctx)
	return conn, err
}

// Listener returns a listener that lets in what d does, for servers with an accept loop
// of their own such as http.Server. Its Accept fails when l is closed and not before. What
// a connection takes is given back when it is closed.
func (d *Door) Listener(l net.Listener) net.Listener {
	ctx, cancel := context.WithCancel(context.Background())
	return &listener{Listener: l, acceptor: d.acceptor(l), ctx: ctx, cancel: cancel}
}

type listener struct {
	net.Listener
	acceptor *acceptor
	ctx      context.Context // ends with Close
	cancel   context.CancelFunc
}

func (l *listener) Accept() (net.Conn, error) {
	conn, source, err := l.acceptor.next(l.ctx)
	if err != nil {
		return nil, err
	}
	return &counted{Conn: conn, give: sync.OnceFunc(func() { giveAll(l.acceptor.door.Budgets, source) })}, nil
}

func (l *listener) Close() error {
	l.cancel()
	return l.Listener.Close()
}

// A counted connection gives back what it took when it is closed.
type counted struct {
	net.Conn
	give func()
}

func (c *counted) Close() error {
	defer c.give()
	return c.Conn.Close()
}

// An acceptor is a Door at one listener.
type acceptor struct {
	door *Door
	l    net.Listener

	mu      sync.Mutex
	logged  time.Time // when it was logged last that connections were refused
	refused int       // since then
	lacked  time.Time // when it was logged last that Accept fails
}

func (d *Door) acceptor(l net.Listener) *acceptor { return &acceptor{door: d, l: l} }

// next returns the next connection that is let in, and whose it is. The error means that
// there will be no more.
func (a *acceptor) next(ctx context.Context) (net.Conn, string, error) {
	for pause := firstPause; ; {
		conn, err := a.l.Accept()
		switch {
		case err == nil:
			pause = firstPause
			if source, ok := a.admit(conn); ok {
				return conn, source, nil
			}
			hangUp(conn)
			a.countRefused()
		case ctx.Err() != nil || errors.Is(err, net.ErrClosed):
			return nil, "", net.ErrClosed
		default:
			a.logLack(err)
			select {
			case <-time.After(pause):
				pause = min(2*pause, longestPause)
			case <-ctx.Done():
				return nil, "", net.ErrClosed
			}
		}
	}
}

func (a *acceptor) admit(conn net.Conn) (source string, ok bool) {
	if len(a.door.Budgets) == 0 {
		return "", true
	}
	name := a.door.Source
	if name == nil {
		name = Source
	}
	source = name(conn)
	return source, takeAll(a.door.Budgets, source)
}

func (a *acceptor) countRefused() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.refused++
	if a.door.Log == nil || time.Since(a.logged) < logPause {
		return
	}
	a.door.Log.Warn("too many connections: hung up", "at", a.l.Addr(), "count", a.refused)
	a.logged, a.refused = time.Now(), 0
}

func (a *acceptor) logLack(err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.door.Log == nil || time.Since(a.lacked) < logPause {
		return
	}
	a.door.Log.Warn("a connection was not accepted; trying again", "at", a.l.Addr(), "cause", err)
	a.lacked = time.Now()
}

// hangUp ends a connection that is not let in. A reset says that this was no orderly end.
func hangUp(conn net.Conn) {
	if t, ok := conn.(*net.TCPConn); ok {
		_ = t.SetLinger(0)
	}
	_ = conn.Close()
}
