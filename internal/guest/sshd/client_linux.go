package sshd

import (
	"errors"
	"fmt"
	"net"
	"strconv"
	"sync/atomic"

	"golang.org/x/crypto/ssh"

	"github.com/hyve-vm/hyve/internal/guest/door"
)

// maxRefusals bounds the lines that one client can have written into the log.
const maxRefusals = 32

// An client is one client that has logged in.
type client struct {
	server   *Server
	conn     *ssh.ServerConn
	forwards *remoteForwards
	agent    agentSocket

	refusals atomic.Int32
}

// refuse logs what the client is not given, and why. Its user is told by the client, or
// not at all: of what needs no answer a client hears nothing.
func (c *client) refuse(what string, why error) {
	if n := c.refusals.Add(1); n < maxRefusals {
		c.server.Logf("refusing an SSH client %s: %v", what, why)
	} else if n == maxRefusals {
		c.server.Logf("refusing an SSH client %s, and more that is not logged: %v", what, why)
	}
}

// serve answers a client until it is gone.
func (c *client) serve(channels <-chan ssh.NewChannel, requests <-chan *ssh.Request) {
	defer c.conn.Close()
	defer door.LogPanic(c.server.Logf)
	c.forwards = &remoteForwards{client: c}
	defer c.agent.close()
	defer c.forwards.close()
	go c.answer(requests)
	for channel := range channels {
		switch channel.ChannelType() {
		case "session":
			go c.session(channel)
		case "direct-tcpip":
			go c.forwardTCP(channel)
		case "direct-streamlocal@openssh.com":
			go c.forwardSocket(channel)
		default:
			c.reject(channel, ssh.UnknownChannelType, "this server has no such channels")
		}
	}
}

// answer answers the client's global requests until it is gone.
func (c *client) answer(requests <-chan *ssh.Request) {
	defer door.LogPanic(c.server.Logf)
	for req := range requests {
		var payload []byte
		var err error
		switch req.Type {
		case "tcpip-forward":
			payload, err = c.forwards.listenTCP(req.Payload)
		case "streamlocal-forward@openssh.com":
			err = c.forwards.listenSocket(req.Payload)
		case "cancel-tcpip-forward", "cancel-streamlocal-forward@openssh.com":
			err = c.forwards.cancel(req.Type, req.Payload)
		case "no-more-sessions@openssh.com": // and asks for none
		case "keepalive@openssh.com":
		default:
			err = errUnknownRequest
		}
		if err != nil {
			c.refuse(quoteName(req.Type), err)
		}
		if req.WantReply {
			req.Reply(err == nil, payload)
		}
	}
}

// reject refuses a channel. Clients show their users the reason.
func (c *client) reject(channel ssh.NewChannel, reason ssh.RejectionReason, why string) {
	c.refuse("a channel of the kind "+quoteName(channel.ChannelType()), errors.New(why))
	channel.Reject(reason, why)
}

// errUnknownRequest is why a request is refused that is of a kind unknown here.
var errUnknownRequest = errors.New("this server does not do that")

// quoteName is a name that a client has sent, for the log.
func quoteName(name string) string { return strconv.Quote(name[:min(len(name), 64)]) }

// addresses are the variables by which programs know that they run over SSH, and from where.
func (c *client) addresses() []string {
	client, ok1 := c.conn.RemoteAddr().(*net.TCPAddr)
	server, ok2 := c.conn.LocalAddr().(*net.TCPAddr)
	if !ok1 || !ok2 {
		return nil
	}
	return []string{
		fmt.Sprintf("SSH_CLIENT=%s %d %d", client.IP, client.Port, server.Port),
		fmt.Sprintf("SSH_CONNECTION=%s %d %s %d", client.IP, client.Port, server.IP, server.Port),
	}
}
