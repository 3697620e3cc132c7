package supervisor

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"time"

	"github.com/hyve-vm/hyve/internal/accept"
	"github.com/hyve-vm/hyve/internal/machine"
)

// sockets are the unix sockets of a running machine, all private to its user.
type sockets struct {
	control net.Listener // the words
	docker  net.Listener // docker clients
	ssh     net.Listener // SSH clients
	network net.Listener // the hypervisor's card
	guest   *channel     // the hypervisor's end of the guest's channel
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
		{dir.NetworkSocket(), &s.network},
		{dir.GuestSocket(), &guest},
		{dir.ControlSocket(), &s.control},
	} {
		var err error
		if *l.listener, err = listenUnix(l.path); err != nil {
			s.close()
			return nil, err
		}
	}
	s.guest = &channel{guest.(*net.UnixListener)}
	return &s, nil
}

func listenUnix(path string) (net.Listener, error) {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("removing an old socket: %w", err)
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		return nil, fmt.Errorf("listening on %s: %w", path, err)
	}
	// The directory is private already; this is for those who look at the file.
	if err := os.Chmod(path, 0o600); err != nil {
		l.Close()
		return nil, fmt.Errorf("listening on %s: %w", path, err)
	}
	return l, nil
}

// close closes, and thereby removes, the sockets.
func (s *sockets) close() {
	for _, l := range []net.Listener{s.docker, s.ssh, s.network, s.control} {
		if l != nil {
			l.Close()
		}
	}
	if s.guest != nil {
		s.guest.Close()
	}
}

// channel accepts the hypervisor's connection, one for each VM.
type channel struct{ *net.UnixListener }

// accept returns the next connection, or ctx's error.
func (c *channel) accept(ctx context.Context) (net.Conn, error) {
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
func (c *channel) forget() {
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
