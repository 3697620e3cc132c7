// Package front is the door of the guest's engine on the network: mutual TLS, and behind it
// the engine's own socket.
package front

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"regexp"
	"sync"
	"time"

	"github.com/hyve-vm/hyve/internal/guest/door"
	"github.com/hyve-vm/hyve/internal/guestapi"
)

// Bounds of the front.
const (
	handshakeTimeout = 10 * time.Second
	copyBuffer       = 128 << 10 // bytes a direction of a connection
)

// A Front is the engine's door on the network: mutual TLS, and behind it the
// engine's own socket. The certificate is picked per connection, so that the
// machine's identity can change under a running engine. Who comes before there is an
// identity waits for it.
type Front struct {
	socket  string
	door    *door.Door
	buffers sync.Pool

	mu          sync.Mutex
	own, second *certSet
	config      *tls.Config   // of new connections; nil while there is no identity
	opened      chan struct{} // closed when there is one; nil before anybody waits
	also        net.Listener  // on a port of the user's choice; nil if there is none
	alsoPort    uint16
}

// New returns the front of the engine that listens at that socket. It lets nobody in before
// Identify.
func New(socket string, logf func(string, ...any)) *Front {
	return &Front{socket: socket, door: door.New(handshakeTimeout, logf), buffers: sync.Pool{New: func() any {
		b := make([]byte, copyBuffer)
		return &b
	}}}
}

// Identify makes new connections see that identity.
func (f *Front) Identify(id guestapi.Identity) error {
	own, err := readCertSet(id.CA, id.ServerCert, id.ServerKey)
	if err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.own = own
	f.door.SetHost(id.Network.Host)
	f.rebuild()
	return nil
}

// AddCerts makes the front answer for a second set of certificates, which
// docker-machine has put into the guest. A client that names the machine sees
// the identity's, any other this one. Empty texts take it back.
func (f *Front) AddCerts(ca, cert, key string) error {
	var second *certSet
	if ca != "" {
		var err error
		if second, err = readCertSet(ca, cert, key); err != nil {
			return err
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.second = second
	f.rebuild()
	return nil
}

// AddPort makes the front answer at another port, too, where docker-machine looks for the
// engine when it knows the machine by a forwarded port. 0 takes it back.
func (f *Front) AddPort(port uint16) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if port == guestapi.EnginePort {
		port = 0
	}
	if port == f.alsoPort {
		return nil
	}
	if f.also != nil {
		f.also.Close()
		f.also, f.alsoPort = nil, 0
	}
	if port == 0 {
		return nil
	}
	l, err := door.Listen(port)
	if err != nil {
		return err
	}
	f.also, f.alsoPort = l, port
	go f.Serve(l)
	return nil
}

// OtherPort is the port of AddPort, or 0.
func (f *Front) OtherPort() uint16 {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.alsoPort
}

// A certSet is what the front shows its clients, and who they may be.
type certSet struct {
	cert tls.Certificate
	ca   string
}

func readCertSet(ca, cert, key string) (*certSet, error) {
	pair, err := tls.X509KeyPair([]byte(cert), []byte(key))
	if err != nil {
		return nil, fmt.Errorf("reading the engine's certificate: %w", err)
	}
	if !x509.NewCertPool().AppendCertsFromPEM([]byte(ca)) {
		return nil, errors.New("reading the CA of the engine's clients: no certificate in it")
	}
	return &certSet{cert: pair, ca: ca}, nil
}

// rebuild makes the configuration of new connections. The caller holds mu.
func (f *Front) rebuild() {
	if f.own == nil {
		return // nobody is let in before the machine has its identity
	}
	config := &tls.Config{
		MinVersion: tls.VersionTLS12,
		ClientAuth: tls.RequireAndVerifyClientCert, // and its usage must be client authentication
		ClientCAs:  x509.NewCertPool(),
		NextProtos: []string{"http/1.1"},
	}
	// Of its own for each identity: what crypto/tls draws once for all was drawn before
	// a freeze, and machines that were thawed from one state would share it.
	var ticketKey [32]byte
	rand.Read(ticketKey[:]) // never fails
	config.SetSessionTicketKeys([][32]byte{ticketKey})
	// crypto/tls takes the first that fits the name which the client asks for,
	// and the very first for a client that asks for none.
	for _, face := range []*certSet{f.second, f.own} {
		if face != nil {
			config.Certificates = append(config.Certificates, face.cert)
			config.ClientCAs.AppendCertsFromPEM([]byte(face.ca))
		}
	}
	f.config = config
	if f.opened != nil {
		close(f.opened)
		f.opened = nil
	}
}

// Shut has new connections wait until there is an identity again: of a frozen machine
// nobody knows who it will be.
func (f *Front) Shut() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.config = nil
}

// Open ends that, with the identity that there was.
func (f *Front) Open() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.rebuild()
}

// await returns the configuration of a new connection, once there is one.
func (f *Front) await(ctx context.Context) (*tls.Config, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for f.config == nil {
		if f.opened == nil {
			f.opened = make(chan struct{})
		}
		opened := f.opened
		f.mu.Unlock()
		select {
		case <-opened:
		case <-ctx.Done():
		}
		f.mu.Lock()
		if ctx.Err() != nil {
			return nil, errors.New("this machine has no identity yet")
		}
	}
	return f.config, nil
}

// Serve accepts connections until l is closed.
func (f *Front) Serve(l net.Listener) { f.door.Serve(l, f.handle) }

// oldVersion is a request that docker-machine's "ls" makes of every engine, in a
// version of the API that engines no longer speak.
var oldVersion = regexp.MustCompile(`^GET /v1\.1[0-9]/version `)

// handle lets a client in.
func (f *Front) handle(conn net.Conn) (serve func()) {
	client := tls.Server(conn, &tls.Config{MinVersion: tls.VersionTLS12, GetConfigForClient: func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
		return f.await(hello.Context())
	}})
	ctx, cancel := context.WithTimeout(context.Background(), handshakeTimeout)
	defer cancel()
	if err := client.HandshakeContext(ctx); err != nil {
		if !errors.Is(err, io.EOF) { // somebody only looked whether the port is open
			f.door.Logf("refusing a client of the engine at %v: %v", client.RemoteAddr(), err)
			hangUp(conn)
		}
		return nil
	}
	return func() { f.joinEngine(client) }
}

// How long and how much a client that is refused may go on to send, in bytes.
const (
	hangUpPatience = time.Second
	hangUpMost     = 64 << 10
)

// hangUp ends a connection when its client has read why. One that has sent a request already
// would lose that: a connection that is closed with something unread is reset.
func hangUp(conn net.Conn) {
	if tcp, ok := conn.(*net.TCPConn); ok && tcp.CloseWrite() == nil {
		tcp.SetReadDeadline(time.Now().Add(hangUpPatience))
		io.CopyN(io.Discard, tcp, hangUpMost)
	}
}

// joinEngine joins a client to the engine.
func (f *Front) joinEngine(client *tls.Conn) {
	defer client.Close()
	fromClient := rewriteOldVersion(client)
	server, err := net.Dial("unix", f.socket)
	if err != nil {
		io.WriteString(client, "HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\nConnection: close\r\n\r\n"+
			"{\"message\":\"the engine of this machine is not running\"}\n")
		return
	}
	defer server.Close()
	join(client, server.(*net.UnixConn), fromClient, &f.buffers)
}

// rewriteOldVersion returns what the client sends, with a first request of an
// old version's /version replaced by one that every engine answers.
func rewriteOldVersion(client io.Reader) io.Reader {
	r := bufio.NewReaderSize(client, 4<<10)
	const longest = len("GET /v1.15/version ")
	// HTTP clients speak first, and any first line is longer than this. One that
	// sends less and waits gets nothing from the engine either.
	first, _ := r.Peek(longest)
	if !oldVersion.Match(first) {
		return r
	}
	r.Discard(longest)
	return io.MultiReader(bytes.NewReader([]byte("GET /version ")), r)
}

// A halfCloser is a connection of which one direction can end before the other,
// as an attached container's input does.
type halfCloser interface {
	net.Conn
	CloseWrite() error
}

// join copies between two connections until both directions have ended. The end
// of one is passed on as a half-close. A client that breaks off ends both; a
// server that no longer listens may still have an answer to give.
func join(client, server halfCloser, fromClient io.Reader, buffers *sync.Pool) {
	pipe := func(to io.Writer, from io.Reader) (readErr, writeErr error) {
		buf := buffers.Get().(*[]byte)
		defer buffers.Put(buf)
		return copyUntilEnd(to, from, *buf)
	}
	var both sync.WaitGroup
	both.Go(func() {
		readErr, _ := pipe(server, fromClient)
		if readErr != nil {
			server.Close()
			return
		}
		server.CloseWrite()
	})
	both.Go(func() {
		readErr, writeErr := pipe(client, server)
		if readErr != nil || writeErr != nil {
			server.Close()
			client.Close()
			return
		}
		client.CloseWrite()
	})
	both.Wait()
}

// copyUntilEnd copies with that buffer and says which side failed; the end of
// from is no failure.
func copyUntilEnd(to io.Writer, from io.Reader, buf []byte) (readErr, writeErr error) {
	for {
		n, err := from.Read(buf)
		if n > 0 {
			if _, err := to.Write(buf[:n]); err != nil {
				return nil, err
			}
		}
		if errors.Is(err, io.EOF) {
			return nil, nil
		}
		if err != nil {
			return err, nil
		}
	}
}
