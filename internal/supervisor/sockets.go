package supervisor

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"

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
	s.guest = &channel{guest}
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
type channel struct{ net.Listener }

// accept returns the next connection, or ctx's error.
func (c *channel) accept(ctx context.Context) (net.Conn, error) {
	type result struct {
		conn net.Conn
		err  error
	}
	results := make(chan result, 1)
	go func() {
		conn, err := c.Accept()
		results <- result{conn, err}
	}()
	select {
	case r := <-results:
		return r.conn, r.err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}
