package dockerenv

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"os/exec"
	"sync"
	"time"
)

// dialSSH connects to an engine as the docker CLI does: its own program on the other host
// speaks to the engine, and ssh carries that.
func dialSSH(u *url.URL) (net.Conn, error) {
	args := []string{"-T", "-o", "ConnectTimeout=30"}
	if user := u.User.Username(); user != "" {
		args = append(args, "-l", user)
	}
	if port := u.Port(); port != "" {
		args = append(args, "-p", port)
	}
	cmd := exec.Command("ssh", append(args, "--", u.Hostname(), "docker", "system", "dial-stdio")...)
	c := &commandConn{cmd: cmd}
	cmd.Stderr = &c.said
	var err error
	if c.in, err = cmd.StdinPipe(); err != nil {
		return nil, err
	}
	if c.out, err = cmd.StdoutPipe(); err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("running ssh: %w", err)
	}
	return c, nil
}

// A commandConn is a connection to a program's standard input and output.
type commandConn struct {
	cmd  *exec.Cmd
	in   io.WriteCloser
	out  io.ReadCloser
	said beginning
	once sync.Once
}

// Read says at the end what the program has said on its standard error.
func (c *commandConn) Read(b []byte) (int, error) {
	n, err := c.out.Read(b)
	if errors.Is(err, io.EOF) {
		c.Close() // so that all that it said is here
		if said := c.said.String(); said != "" {
			return n, fmt.Errorf("ssh says: %s", Printable(said))
		}
	}
	return n, err
}

func (c *commandConn) Write(b []byte) (int, error) { return c.in.Write(b) }

// Close ends the program.
func (c *commandConn) Close() error {
	c.once.Do(func() {
		c.in.Close()
		c.cmd.Process.Kill()
		c.cmd.Wait()
	})
	return nil
}

func (c *commandConn) LocalAddr() net.Addr              { return commandAddr{} }
func (c *commandConn) RemoteAddr() net.Addr             { return commandAddr{} }
func (c *commandConn) SetDeadline(time.Time) error      { return nil }
func (c *commandConn) SetReadDeadline(time.Time) error  { return nil }
func (c *commandConn) SetWriteDeadline(time.Time) error { return nil }

type commandAddr struct{}

func (commandAddr) Network() string { return "ssh" }
func (commandAddr) String() string  { return "ssh" }

// beginning keeps the beginning of what is written to it.
type beginning struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *beginning) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.buf.Write(p[:min(len(p), max(0, maxMessage-b.buf.Len()))])
	return len(p), nil
}

func (b *beginning) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}
