package sshd

import (
	"context"
	"fmt"
	"io"
	"net"
	"strconv"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/hyve-vm/hyve/internal/accept"
	"github.com/hyve-vm/hyve/internal/guest/door"
)

// Wire formats of RFC 4254, section 7, and of OpenSSH's PROTOCOL for sockets.
type (
	directTCP struct {
		Host       string
		Port       uint32
		OriginHost string
		OriginPort uint32
	}
	directSocket struct {
		Path     string
		Reserved string
		Zero     uint32
	}
	forwardRequest struct {
		Host string
		Port uint32
	}
	socketForward   struct{ Path string }
	forwardedSocket struct{ Path, Reserved string }
	forwardReply    struct{ Port uint32 }
	forwardedConn   struct {
		Host       string
		Port       uint32
		OriginHost string
		OriginPort uint32
	}
)

// forwardTCP serves one connection of the client's -L or -D.
func (c *client) forwardTCP(channel ssh.NewChannel) {
	var r directTCP
	if err := ssh.Unmarshal(channel.ExtraData(), &r); err != nil {
		c.reject(channel, ssh.ConnectionFailed, err.Error())
		return
	}
	c.forward(channel, func() (net.Conn, error) {
		return net.DialTimeout("tcp", net.JoinHostPort(r.Host, strconv.Itoa(int(r.Port))), forwardDial)
	})
}

// forwardSocket serves one connection of the client's -L to a unix socket.
func (c *client) forwardSocket(channel ssh.NewChannel) {
	var r directSocket
	if err := ssh.Unmarshal(channel.ExtraData(), &r); err != nil {
		c.reject(channel, ssh.ConnectionFailed, err.Error())
		return
	}
	c.forward(channel, func() (net.Conn, error) { return c.server.Account.Dial(r.Path) })
}

// forwardDial bounds how long a connection may take that a client wants.
const forwardDial = 2 * time.Minute

func (c *client) forward(opening ssh.NewChannel, dial func() (net.Conn, error)) {
	defer door.LogPanic(c.server.Logf)
	conn, err := dial()
	if err != nil {
		opening.Reject(ssh.ConnectionFailed, err.Error()) // which the client shows
		return
	}
	defer conn.Close()
	channel, requests, err := opening.Accept()
	if err != nil {
		return
	}
	go ssh.DiscardRequests(requests)
	joinChannel(channel, conn)
}

// joinChannel copies between a channel and a connection until both directions
// have ended.
func joinChannel(channel ssh.Channel, conn net.Conn) {
	defer channel.Close()
	var both sync.WaitGroup
	both.Go(func() {
		if _, err := io.Copy(conn, channel); err != nil {
			conn.Close()
			return
		}
		if half, ok := conn.(interface{ CloseWrite() error }); ok {
			half.CloseWrite()
		}
	})
	both.Go(func() {
		io.Copy(channel, conn)
		channel.CloseWrite()
	})
	both.Wait()
}

// remoteForwards are what one client listens on by its -R.
type remoteForwards struct {
	client *client

	mu        sync.Mutex
	listening map[string][]net.Listener // by where, as tcpName and socketName have it
	closed    bool
}

func tcpName(r forwardRequest) string   { return fmt.Sprintf("tcp %q %d", r.Host, r.Port) }
func socketName(r socketForward) string { return fmt.Sprintf("unix %q", r.Path) }

// listenTCP listens on a port; the payload of its answer names one that was chosen here.
func (f *remoteForwards) listenTCP(payload []byte) ([]byte, error) {
	var r forwardRequest
	if err := ssh.Unmarshal(payload, &r); err != nil {
		return nil, err
	}
	if r.Port > 1<<16-1 {
		return nil, fmt.Errorf("%d is no port", r.Port)
	}
	asked := r.Port
	listeners, err := listenLoopback(r.Host, uint16(r.Port))
	if err != nil {
		return nil, err
	}
	r.Port = uint32(listeners[0].Addr().(*net.TCPAddr).Port)
	err = f.serve(tcpName(r), listeners, func(conn net.Conn) {
		origin := conn.RemoteAddr().(*net.TCPAddr)
		f.client.forwardBack(conn, "forwarded-tcpip", ssh.Marshal(forwardedConn{
			Host: r.Host, Port: r.Port, OriginHost: origin.IP.String(), OriginPort: uint32(origin.Port)}))
	})
	if err != nil || asked != 0 {
		return nil, err
	}
	return ssh.Marshal(forwardReply{r.Port}), nil
}

// listenLoopback listens on a port of the guest's loopback, of IPv6 too where there is one,
// whatever address a client names: as sshd does by default (GatewayPorts in sshd_config(5)).
// On another address hyve would publish the port.
func listenLoopback(host string, port uint16) ([]net.Listener, error) {
	if host == "127.0.0.1" || host == "::1" {
		l, err := listenTCP(host, port)
		if err != nil {
			return nil, err
		}
		return []net.Listener{l}, nil
	}
	first, err := listenTCP("127.0.0.1", port)
	if err != nil {
		return nil, err
	}
	listeners := []net.Listener{first}
	if second, err := listenTCP("::1", uint16(first.Addr().(*net.TCPAddr).Port)); err == nil {
		listeners = append(listeners, second)
	}
	return listeners, nil
}

func listenTCP(host string, port uint16) (net.Listener, error) {
	return net.Listen("tcp", net.JoinHostPort(host, strconv.Itoa(int(port))))
}

// listenSocket listens on a unix socket.
func (f *remoteForwards) listenSocket(payload []byte) error {
	var r socketForward
	if err := ssh.Unmarshal(payload, &r); err != nil {
		return err
	}
	l, err := f.client.server.Account.Listen(r.Path)
	if err != nil {
		return err
	}
	return f.serve(socketName(r), []net.Listener{l}, func(conn net.Conn) {
		f.client.forwardBack(conn, "forwarded-streamlocal@openssh.com", ssh.Marshal(forwardedSocket{Path: r.Path}))
	})
}

// serve has handle serve what connects. The listeners are closed if it cannot.
func (f *remoteForwards) serve(name string, listeners []net.Listener, handle func(net.Conn)) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if _, there := f.listening[name]; there || f.closed {
		closeAll(listeners)
		return fmt.Errorf("listening on %s: it ends or is there already", name)
	}
	if f.listening == nil {
		f.listening = map[string][]net.Listener{}
	}
	f.listening[name] = listeners
	door := accept.Door{Budgets: []*accept.Budget{accept.NewBudget(maxForwarded, maxForwarded)}}
	for _, l := range listeners {
		go door.Serve(context.Background(), l, handle)
	}
	return nil
}

// cancel ends what a request of that kind began.
func (f *remoteForwards) cancel(kind string, payload []byte) error {
	var name string
	if kind == "cancel-tcpip-forward" {
		var r forwardRequest
		if err := ssh.Unmarshal(payload, &r); err != nil {
			return err
		}
		name = tcpName(r)
	} else {
		var r socketForward
		if err := ssh.Unmarshal(payload, &r); err != nil {
			return err
		}
		name = socketName(r)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	listeners, ok := f.listening[name]
	if !ok {
		return fmt.Errorf("nothing listens on %s", name)
	}
	closeAll(listeners)
	delete(f.listening, name)
	return nil
}

// close ends all listening.
func (f *remoteForwards) close() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.closed = true
	for _, listeners := range f.listening {
		closeAll(listeners)
	}
}

func closeAll(listeners []net.Listener) {
	for _, l := range listeners {
		l.Close()
	}
}
