package guest

import (
	"errors"
	"io"
	"net"
	"strconv"
	"sync"

	"golang.org/x/crypto/ssh"
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
	forwardReply  struct{ Port uint32 }
	forwardedConn struct {
		Host       string
		Port       uint32
		OriginHost string
		OriginPort uint32
	}
)

// forwardTCP serves one connection of the client's -L or -D.
func forwardTCP(c ssh.NewChannel) {
	var r directTCP
	if err := ssh.Unmarshal(c.ExtraData(), &r); err != nil {
		c.Reject(ssh.ConnectionFailed, err.Error())
		return
	}
	forward(c, "tcp", net.JoinHostPort(r.Host, strconv.Itoa(int(r.Port))))
}

// forwardSocket serves one connection of the client's -L to a unix socket. The
// user may become root anyhow, so there is no socket to keep from it.
func forwardSocket(c ssh.NewChannel) {
	var r directSocket
	if err := ssh.Unmarshal(c.ExtraData(), &r); err != nil {
		c.Reject(ssh.ConnectionFailed, err.Error())
		return
	}
	forward(c, "unix", r.Path)
}

func forward(c ssh.NewChannel, network, address string) {
	conn, err := net.Dial(network, address)
	if err != nil {
		c.Reject(ssh.ConnectionFailed, err.Error())
		return
	}
	defer conn.Close()
	channel, requests, err := c.Accept()
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

// remoteForwards are the listeners of one client's -R.
type remoteForwards struct {
	client *ssh.ServerConn

	mu        sync.Mutex
	listeners map[forwardRequest]net.Listener
	closed    bool
}

// serve answers the client's global requests until it is gone.
func (f *remoteForwards) serve(requests <-chan *ssh.Request) {
	for req := range requests {
		var ok bool
		var payload []byte
		switch req.Type {
		case "tcpip-forward":
			ok, payload = f.listen(req.Payload)
		case "cancel-tcpip-forward":
			ok = f.cancel(req.Payload)
		case "keepalive@openssh.com":
			ok = true
		}
		if req.WantReply {
			req.Reply(ok, payload)
		}
	}
}

func (f *remoteForwards) listen(payload []byte) (bool, []byte) {
	var r forwardRequest
	if ssh.Unmarshal(payload, &r) != nil {
		return false, nil
	}
	host := r.Host
	switch host {
	case "*":
		host = ""
	case "localhost":
		host = "127.0.0.1"
	}
	l, err := net.Listen("tcp", net.JoinHostPort(host, strconv.Itoa(int(r.Port))))
	if err != nil {
		return false, nil
	}
	asked := r.Port
	r.Port = uint32(l.Addr().(*net.TCPAddr).Port)
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		l.Close()
		return false, nil
	}
	if f.listeners == nil {
		f.listeners = map[forwardRequest]net.Listener{}
	}
	f.listeners[r] = l
	go f.accept(r, l)
	if asked == 0 {
		return true, ssh.Marshal(forwardReply{r.Port})
	}
	return true, nil
}

func (f *remoteForwards) cancel(payload []byte) bool {
	var r forwardRequest
	if ssh.Unmarshal(payload, &r) != nil {
		return false
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	l, ok := f.listeners[r]
	if ok {
		l.Close()
		delete(f.listeners, r)
	}
	return ok
}

func (f *remoteForwards) accept(r forwardRequest, l net.Listener) {
	for {
		conn, err := l.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			continue
		}
		go func() {
			defer conn.Close()
			origin := conn.RemoteAddr().(*net.TCPAddr)
			channel, requests, err := f.client.OpenChannel("forwarded-tcpip", ssh.Marshal(forwardedConn{
				Host: r.Host, Port: r.Port, OriginHost: origin.IP.String(), OriginPort: uint32(origin.Port)}))
			if err != nil {
				return
			}
			go ssh.DiscardRequests(requests)
			joinChannel(channel, conn)
		}()
	}
}

// close ends all listening.
func (f *remoteForwards) close() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.closed = true
	for _, l := range f.listeners {
		l.Close()
	}
}
