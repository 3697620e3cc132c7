package supervisor

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"time"

	"github.com/hyve-vm/hyve/internal/accept"
	"github.com/hyve-vm/hyve/internal/hypervisor"
	"github.com/hyve-vm/hyve/internal/machine"
	"github.com/hyve-vm/hyve/internal/network"
)

// sockets are the unix sockets of a running machine, all private to its user.
type sockets struct {
	control net.Listener // the words
	docker  net.Listener // docker clients
	ssh     net.Listener // SSH clients
	network io.Closer    // the hypervisor's card; opened when that is known
	guest   *guestSocket // the hypervisor's end of the guest's channel
}

// listen opens a machine's sockets. Its lock is held, so whatever has their
// names is left over from a crash.
func listen(dir machine.Dir) (*sockets, error) {
	if err := dir.MakeRunDir(); err != nil {
		return nil, err
	}
	var s sockets
	var guest net.Listener
	for _, l := range []struct {
		path     string
		listener *net.Listener
	}{
		{dir.DockerSocket(), &s.docker},
		{dir.SSHSocket(), &s.ssh},
		{dir.GuestSocket(), &guest},
		{dir.ControlSocket(), &s.control},
	} {
		var err error
		if *l.listener, err = listenUnix(l.path); err != nil {
			s.close()
			return nil, err
		}
	}
	s.guest = &guestSocket{guest.(*net.UnixListener)}
	return &s, nil
}

func listenUnix(path string) (net.Listener, error) {
	return openUnix(path, func() (net.Listener, error) { return net.Listen("unix", path) })
}

// openUnix opens a socket at path, private to the user.
func openUnix[S io.Closer](path string, open func() (S, error)) (none S, err error) {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return none, fmt.Errorf("removing an old socket: %w", err)
	}
	socket, err := open()
	if err != nil {
		return none, fmt.Errorf("listening on %s: %w", path, err)
	}
	// The directory is private already; this is for those who look at the file.
	if err := os.Chmod(path, 0o600); err != nil {
		socket.Close()
		return none, fmt.Errorf("listening on %s: %w", path, err)
	}
	return socket, nil
}

// serveCard opens the socket of the guest's card, to which a hypervisor brings its frames
// in one of the ways that there are, and has n serve it until ctx ends.
func (s *sockets) serveCard(ctx context.Context, n *network.Network, path string, frames hypervisor.Framing) error {
	if frames == hypervisor.Datagrams {
		conn, err := openUnix(path, func() (*net.UnixConn, error) {
			return net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
		})
		if err == nil {
			s.network = unlinked{conn, path}
			go n.ServeDatagrams(ctx, conn)
		}
		return err
	}
	l, err := listenUnix(path)
	if err == nil {
		s.network = l
		go n.Serve(ctx, l)
	}
	return err
}

// unlinked is a socket whose file is removed when it is closed, as a listener does.
type unlinked struct {
	io.Closer
	path string
}

func (u unlinked) Close() error {
	return errors.Join(os.Remove(u.path), u.Closer.Close())
}

// close closes, and thereby removes, the sockets.
func (s *sockets) close() {
	for _, l := range []net.Listener{s.docker, s.ssh, s.control} {
		if l != nil {
			l.Close()
		}
	}
	if s.network != nil {
		s.network.Close()
	}
	if s.guest != nil {
		s.guest.Close()
	}
}

// A guestSocket accepts the hypervisor's connection, one for each VM.
type guestSocket struct{ *net.UnixListener }

// accept returns the next connection, or ctx's error.
func (c *guestSocket) accept(ctx context.Context) (net.Conn, error) {
	interrupted := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		c.SetDeadline(time.Unix(1, 0))
		close(interrupted)
	})
	conn, err := accept.Next(ctx, c)
	if stop() {
		return conn, err
	}
	<-interrupted
	c.SetDeadline(time.Time{})
	if err == nil {
		conn.Close()
	}
	return nil, ctx.Err()
}

// forget hangs up on whoever has connected: a hypervisor that is no more.
func (c *guestSocket) forget() {
	for {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Millisecond)
		conn, err := c.accept(ctx)
		cancel()
		if err != nil {
			return
		}
		conn.Close()
	}
}
