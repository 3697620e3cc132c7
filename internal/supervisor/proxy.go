package supervisor

import (
	"context"
	"crypto/tls"
	"io"
	"log/slog"
	"net"
	"sync"

	"github.com/hyve-vm/hyve/internal/accept"
)

// Connections of the user's own clients at one time, where the process may have enough
// descriptors: at docker.sock, and at the control socket. One process has half of them
// at the most.
const (
	maxClients = 1024
	maxWords   = 256
)

// door lets in the user's own clients, of whom each takes a descriptor: at most limit, and
// not more than one in parts of all that the process may have.
func door(limit, parts int, log *slog.Logger) *accept.Door {
	limit = min(limit, accept.Descriptors()/parts)
	return &accept.Door{Budgets: []*accept.Budget{accept.NewBudget(limit, limit/2)}, Log: log}
}

// A dialer opens a stream to the engine.
type dialer func(ctx context.Context) (net.Conn, error)

// forward accepts connections at door and joins each with one that dial opens, until ctx
// ends or l is closed. A client that cannot be joined is hung up on.
func forward(ctx context.Context, door *accept.Door, l net.Listener, dial dialer) {
	door.Serve(ctx, l, func(client net.Conn) {
		defer client.Close()
		guest, err := dial(ctx)
		if err != nil {
			door.Log.Warn("cannot reach the guest", "for", l.Addr(), "error", err)
			return
		}
		defer guest.Close()
		join(client, guest)
	})
}

// join copies both ways until both ends have said all they had to say, or nobody is at
// the client's any more, and closes both. Docker's attach and exec close one direction and
// go on in the other.
func join(client, guest net.Conn) {
	end := func() {
		client.Close()
		guest.Close()
	}
	var done sync.WaitGroup
	defer done.Wait()
	said := make(chan struct{}) // all, by the client
	done.Go(func() {
		_, err := io.Copy(guest, client)
		if err == nil {
			closeWrite(guest)
		}
		close(said)
		if err != nil || accept.AwaitDesertion(client) {
			end()
		}
	})
	if _, err := io.Copy(client, guest); err == nil {
		closeWrite(client)
		<-said
	}
	end()
}

func closeWrite(conn net.Conn) {
	if half, ok := conn.(interface{ CloseWrite() error }); ok {
		half.CloseWrite()
		return
	}
	conn.Close()
}

// overTLS wraps a dialer: the guest must prove that it is the machine, and is
// shown this installation's client certificate.
func (s *supervisor) overTLS(dial dialer) dialer {
	return func(ctx context.Context) (net.Conn, error) {
		conn, err := dial(ctx)
		if err != nil {
			return nil, err
		}
		config := s.resources.ca.Load().ClientConfig(s.machine.Name)
		// On a link inside this host. The default guards against computers to come, and is
		// much code for a guest that was just thawed.
		config.CurvePreferences = []tls.CurveID{tls.X25519}
		secure := tls.Client(conn, config)
		if err := secure.HandshakeContext(ctx); err != nil {
			conn.Close()
			return nil, err
		}
		return secure, nil
	}
}
