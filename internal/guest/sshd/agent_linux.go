package sshd

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"sync"

	"golang.org/x/crypto/ssh"

	"github.com/hyve-vm/hyve/internal/accept"
	"github.com/hyve-vm/hyve/internal/guest/account"
	"github.com/hyve-vm/hyve/internal/guest/door"
)

// maxForwarded bounds the connections that are held at one time to one socket or port
// that a client listens on: whoever is in the guest may make them.
const maxForwarded = 1024

// An agentSocket is where programs of the sessions of one client reach its SSH agent.
type agentSocket struct {
	mu     sync.Mutex
	socket *account.Socket // nil before a session asks for it
	closed bool
}

// open returns the socket's path. It is made for the first session that asks for it.
func (a *agentSocket) open(c *client) (string, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.closed {
		return "", net.ErrClosed
	}
	if a.socket != nil {
		return a.socket.Addr().String(), nil
	}
	var dir string
	err := c.server.Account.As(func() (err error) {
		dir, err = os.MkdirTemp("", "ssh-") // 0700
		return err
	})
	if err != nil {
		return "", fmt.Errorf("making a directory for the agent's socket: %w", err)
	}
	if a.socket, err = c.server.Account.Listen(filepath.Join(dir, "agent")); err != nil {
		os.Remove(dir)
		return "", fmt.Errorf("making the agent's socket: %w", err)
	}
	door := accept.Door{Budgets: []*accept.Budget{accept.NewBudget(maxForwarded, maxForwarded)}}
	go door.Serve(context.Background(), a.socket, func(conn net.Conn) {
		c.forwardBack(conn, "auth-agent@openssh.com", nil)
	})
	return a.socket.Addr().String(), nil
}

// close removes the socket.
func (a *agentSocket) close() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.closed = true
	if a.socket != nil {
		a.socket.Close()
		os.Remove(filepath.Dir(a.socket.Addr().String()))
	}
}

// forwardBack joins a connection to a channel that it opens to the client.
func (c *client) forwardBack(conn net.Conn, kind string, data []byte) {
	defer conn.Close()
	defer door.LogPanic(c.server.Logf)
	channel, requests, err := c.conn.OpenChannel(kind, data)
	if err != nil {
		return
	}
	go ssh.DiscardRequests(requests)
	joinChannel(channel, conn)
}
