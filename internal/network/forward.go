package network

import (
	"context"
	"net"
	"sync"
	"time"

	"github.com/hyve-vm/hyve/internal/accept"
)

// guestDialTimeout bounds how long a published port waits for the guest.
const guestDialTimeout = 10 * time.Second

// A Forward passes connections of a host's listener on to the guest.
type Forward struct{ close func() error }

// Close closes the listener. Connections that were made stay.
func (f *Forward) Close() error { return f.close() }

// ForwardTCP passes every connection that l accepts on to a TCP port of the
// guest, bytes untouched, until the Forward or the Network is closed, which
// closes l. A connection that the guest does not take is reset. The error is
// ErrClosed.
func (n *Network) ForwardTCP(l net.Listener, guestPort uint16) (*Forward, error) {
	ctx, cancel := context.WithCancel(n.ctx)
	f := &Forward{close: sync.OnceValue(func() error {
		cancel()
		return l.Close()
	})}
	door := accept.Door{Budgets: n.listenerBudgets(), Log: n.config.Log}
	if !n.spawn(func() {
		defer cancel()
		door.Serve(ctx, l, func(conn net.Conn) { n.forwardToGuest(conn, guestPort) })
	}) {
		_ = f.Close()
		return nil, ErrClosed
	}
	return f, nil
}

// listenerBudgets are what a connection to one listener takes of: the listener's, and all's.
func (n *Network) listenerBudgets() []*accept.Budget {
	limit := n.inboundLimit / 2
	listener := accept.NewBudget(limit, limit/2)
	listener.KeepOwn(limit / ownPart)
	return []*accept.Budget{listener, n.inbound}
}

func (n *Network) forwardToGuest(host net.Conn, port uint16) {
	ctx, cancel := context.WithTimeout(n.ctx, guestDialTimeout)
	defer cancel()
	from := gatewayIP
	if _, own := host.(*net.UnixConn); own {
		from = hostIP
	}
	guest, err := n.dialGuest(ctx, port, from)
	if err != nil {
		n.config.Log.Debug("the guest did not take a connection", "port", port, "cause", err)
		if t, ok := host.(*net.TCPConn); ok {
			_ = t.SetLinger(0) // a reset says "nobody there", an end would say "all is well"
		}
		_ = host.Close()
		return
	}
	relay(host, guest)
}
