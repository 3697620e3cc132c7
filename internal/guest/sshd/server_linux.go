// Package sshd is the guest's SSH server: sessions, files, agents and forwards as OpenSSH's
// client and docker's expect them.
package sshd

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"sync/atomic"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/hyve-vm/hyve/internal/guest/account"
	"github.com/hyve-vm/hyve/internal/guest/door"
	"github.com/hyve-vm/hyve/internal/guest/process"
	"github.com/hyve-vm/hyve/internal/guestapi"
)

// User is the only user that is let in; it may become root by sudo.
const User = "docker"

// handshake bounds the time until a client has logged in. Somebody may have to touch a
// key for it, or to say yes to an agent.
const handshake = 30 * time.Second

// A Config is what a Server needs of its machine.
type Config struct {
	Reaper *process.Reaper
	Cgroup string // of the sessions; empty leaves them where they are
	// Environment returns what a session finds besides its account's; nil is nothing.
	Environment func() []string
	Logf        func(string, ...any)
}

// A Server lets the machine's user in, by public key alone.
type Server struct {
	Account account.Account // of the sessions; set before Serve

	Config
	door     *door.Door
	identity atomic.Pointer[ssh.ServerConfig]
}

// New returns a server that lets nobody in before it has an identity.
func New(c Config) *Server { return &Server{Config: c, door: door.New(handshake, c.Logf)} }

// Identify makes new connections see that identity's host key and users.
func (s *Server) Identify(id guestapi.Identity) error {
	host, err := ssh.ParsePrivateKey([]byte(id.SSHHostKey))
	if err != nil {
		return fmt.Errorf("reading the SSH host key: %w", err)
	}
	var allowed [][]byte
	for _, line := range id.AuthorizedKeys {
		key, _, _, _, err := ssh.ParseAuthorizedKey([]byte(line))
		if err != nil {
			return fmt.Errorf("reading the authorized key %q: %w", line[:min(len(line), 40)], err)
		}
		allowed = append(allowed, key.Marshal())
	}
	config := &ssh.ServerConfig{
		// OpenSSH's client tells only a server of its own kind that nobody reads a
		// program's output any more.
		ServerVersion: "SSH-2.0-OpenSSH_hyve",
		PublicKeyCallback: func(c ssh.ConnMetadata, key ssh.PublicKey) (*ssh.Permissions, error) {
			if c.User() == User {
				offered := key.Marshal()
				for _, k := range allowed {
					if bytes.Equal(k, offered) {
						return nil, nil
					}
				}
			}
			return nil, errors.New("unknown user or key")
		},
	}
	config.AddHostKey(host)
	s.door.SetHost(id.Network.Host)
	s.identity.Store(config)
	return nil
}

// Serve accepts connections until l is closed.
func (s *Server) Serve(l net.Listener) { s.door.Serve(l, s.handle) }

// handle lets a client in.
func (s *Server) handle(conn net.Conn) (serve func()) {
	config := s.identity.Load()
	if config == nil {
		return nil
	}
	login, channels, requests, err := ssh.NewServerConn(conn, config)
	if err != nil {
		var auth *ssh.ServerAuthError
		if errors.As(err, &auth) {
			s.door.Logf("refusing an SSH client at %v: %v", conn.RemoteAddr(), err)
		}
		return nil
	}
	return func() { (&client{server: s, conn: login}).serve(channels, requests) }
}
