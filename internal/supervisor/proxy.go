package supervisor

import (
	"context"
	"crypto/tls"
	"io"
	"log/slog"
	"net"
	"sync"
)

// A dialer opens a stream to the engine.
type dialer func(ctx context.Context) (net.Conn, error)

// forward accepts connections on l and joins each with one that dial opens,
// until l is closed. A client that cannot be joined is hung up on.
func forward(ctx context.Context, l net.Listener, dial dialer, log *slog.Logger) {
	for {
		client, err := l.Accept()
		if err != nil {
			return
		}
		go func() {
			defer client.Close()
			guest, err := dial(ctx)
			if err != nil {
				log.Warn("cannot reach the guest", "for", l.Addr(), "error", err)
				return
			}
			defer guest.Close()
			join(client, guest)
		}()
	}
}

// join copies both ways until both ends have said all they had to say. Docker's
// attach and exec close one direction and go on in the other.
func join(a, b net.Conn) {
	var done sync.WaitGroup
	for _, d := range [][2]net.Conn{{a, b}, {b, a}} {
		done.Go(func() {
			if _, err := io.Copy(d[0], d[1]); err != nil {
				a.Close()
				b.Close()
				return
			}
			closeWrite(d[0])
		})
	}
	done.Wait()
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
		config := s.parts.ca.Load().ClientConfig(s.machine.Name)
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
