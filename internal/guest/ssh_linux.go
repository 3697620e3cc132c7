package guest

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/hyve-vm/hyve/internal/guest/process"
	"github.com/hyve-vm/hyve/internal/guestapi"
)

// sshUser is the only user that is let in; it may become root by sudo.
const sshUser = "docker"

// sshHandshake bounds the time until a client has logged in. Somebody may have to touch a
// key for it, or to say yes to an agent.
const sshHandshake = 30 * time.Second

// An sshServer lets the machine's user in, by public key alone.
type sshServer struct {
	account account
	reaper  *process.Reaper
	cgroup  string // of the sessions; empty leaves them where they are
	// environment returns what a session finds besides its account's.
	environment func() []string
	logf        func(string, ...any)
	door        *door

	config current[*ssh.ServerConfig]
}

// identify makes new connections see that identity's host key and users.
func (s *sshServer) identify(id guestapi.Identity) error {
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
			if c.User() == sshUser {
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
	s.door.host.set(id.Network.Host)
	s.config.set(config)
	return nil
}

// serve accepts connections until l is closed.
func (s *sshServer) serve(l net.Listener) { s.door.serve(l, s.handle) }

// handle lets a client in.
func (s *sshServer) handle(conn net.Conn) (serve func()) {
	config, ok := s.config.get()
	if !ok {
		return nil
	}
	client, channels, requests, err := ssh.NewServerConn(conn, config)
	if err != nil {
		var auth *ssh.ServerAuthError
		if errors.As(err, &auth) {
			s.door.logf("refusing an SSH client at %v: %v", conn.RemoteAddr(), err)
		}
		return nil
	}
	return func() { (&sshClient{server: s, conn: client}).serve(channels, requests) }
}
