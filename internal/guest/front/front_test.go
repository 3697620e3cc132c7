package front

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"io"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// startFront starts a front before an engine that handle plays.
func startFront(t *testing.T, pki *testPKI, handle func(*net.UnixConn)) (f *Front, address string) {
	t.Helper()
	socket := filepath.Join(t.TempDir(), "docker.sock")
	engine, err := net.ListenUnix("unix", &net.UnixAddr{Name: socket, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { engine.Close() })
	go func() {
		for {
			conn, err := engine.AcceptUnix()
			if err != nil {
				return
			}
			go handle(conn)
		}
	}()
	f = New(socket, t.Logf)
	if err := f.Identify(pki.identity("first")); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go f.Serve(l)
	return f, l.Addr().String()
}

// Who says nothing, or no TLS, is let go of when the door's patience ends.
func TestFrontSilentClients(t *testing.T) {
	f, _ := startFront(t, newTestPKI(t, "first"), func(conn *net.UnixConn) { conn.Close() })
	for _, said := range []string{"", "GET / HTTP/1.0\r\n\r\n"} {
		client, server := net.Pipe()
		go io.WriteString(client, said)
		go io.Copy(io.Discard, client)
		server.SetDeadline(time.Now().Add(100 * time.Millisecond))
		if f.handle(server) != nil {
			t.Errorf("a client that says %q is let in", said)
		}
		client.Close()
	}
}

// A client that is refused hears why, though it has sent a request already.
func TestFrontSaysWhy(t *testing.T) {
	p, stranger := newTestPKI(t, "first"), newTestPKI(t, "first")
	_, address := startFront(t, p, func(conn *net.UnixConn) { conn.Close() })
	pool := x509.NewCertPool()
	pool.AddCert(p.ca)
	for range 20 {
		conn, err := tls.Dial("tcp", address, &tls.Config{RootCAs: pool, ServerName: "first", Certificates: []tls.Certificate{stranger.client}})
		if err != nil {
			t.Fatal(err)
		}
		for range 3 { // a reset would end this, and may overtake the reason
			if _, err := conn.Write(make([]byte, 4<<10)); err != nil {
				t.Fatal(err)
			}
			time.Sleep(5 * time.Millisecond)
		}
		if _, err := conn.Read(make([]byte, 1)); err == nil || !strings.Contains(err.Error(), "unknown certificate authority") {
			t.Fatalf("it hears %v", err)
		}
		conn.Close()
	}
}

func dialFront(address string, pki *testPKI, client ...tls.Certificate) (*tls.Conn, error) {
	pool := x509.NewCertPool()
	pool.AddCert(pki.ca)
	conn, err := tls.Dial("tcp", address, &tls.Config{RootCAs: pool, ServerName: "first", Certificates: client})
	if err != nil {
		return nil, err
	}
	conn.SetDeadline(time.Now().Add(10 * time.Second))
	// With TLS 1.3 a server refuses a client's certificate after the client's
	// part of the handshake: the first read says so.
	conn.Write([]byte("GET /x HTTP/1.0\r\n\r\n"))
	return conn, nil
}

func TestFrontHalfClose(t *testing.T) {
	pki := newTestPKI(t, "first")
	// The engine echoes after it has read everything: without a half-close in
	// both directions either side would wait for ever.
	_, address := startFront(t, pki, func(conn *net.UnixConn) {
		all, _ := io.ReadAll(conn)
		conn.Write(all)
		conn.CloseWrite()
		conn.Close()
	})
	conn, err := dialFront(address, pki, pki.client)
	if err != nil {
		t.Fatal(err)
	}
	big := make([]byte, 5<<20)
	rand.Read(big)
	go func() { conn.Write(big); conn.CloseWrite() }()
	got, err := io.ReadAll(conn)
	if err != nil || !bytes.Equal(got[len("GET /x HTTP/1.0\r\n\r\n"):], big) {
		t.Errorf("%d bytes came back, %v", len(got), err)
	}
}

func TestFrontEngineClosesFirst(t *testing.T) {
	pki := newTestPKI(t, "first")
	served := make(chan error, 1)
	_, address := startFront(t, pki, func(conn *net.UnixConn) {
		r := bufio.NewReader(conn)
		r.ReadString('\n')
		r.ReadString('\n')
		conn.Write([]byte("output"))
		conn.CloseWrite()
		rest, err := io.ReadAll(r) // input goes on after the output's end
		if string(rest) != "input" {
			t.Errorf("the engine reads %q", rest)
		}
		served <- err
	})
	conn, err := dialFront(address, pki, pki.client)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(conn); err != nil || string(got) != "output" {
		t.Errorf("the client reads %q, %v", got, err)
	}
	conn.Write([]byte("input"))
	conn.Close()
	if err := <-served; err != nil {
		t.Error(err)
	}
}

func TestFrontClientBreaksOff(t *testing.T) {
	pki := newTestPKI(t, "first")
	noticed := make(chan struct{})
	_, address := startFront(t, pki, func(conn *net.UnixConn) {
		io.Copy(io.Discard, conn)
		close(noticed)
	})
	conn, err := dialFront(address, pki, pki.client)
	if err != nil {
		t.Fatal(err)
	}
	raw := conn.NetConn().(*net.TCPConn)
	raw.SetLinger(0) // a reset instead of an orderly end
	raw.Close()
	select {
	case <-noticed:
	case <-time.After(10 * time.Second):
		t.Error("the engine does not learn that its client is gone")
	}
}

func TestFrontLetsIn(t *testing.T) {
	pki, other := newTestPKI(t, "first"), newTestPKI(t, "first")
	f, address := startFront(t, pki, func(conn *net.UnixConn) {
		line, _ := bufio.NewReader(conn).ReadString('\n')
		io.WriteString(conn, line)
		conn.Close()
	})
	read := func(server *testPKI, client ...tls.Certificate) string {
		conn, err := dialFront(address, server, client...)
		if err != nil {
			return "refused: " + err.Error()
		}
		defer conn.Close()
		b, err := io.ReadAll(conn)
		if err != nil && len(b) == 0 {
			return "refused: " + err.Error()
		}
		return string(b)
	}
	serverCert, serverKey := pki.issue(t, "client", x509.ExtKeyUsageServerAuth)
	wrongUse, err := tls.X509KeyPair([]byte(serverCert), []byte(serverKey))
	if err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct {
		clients []tls.Certificate
		ok      bool
	}{
		"its client":            {[]tls.Certificate{pki.client}, true},
		"nobody":                {nil, false},
		"another CA's client":   {[]tls.Certificate{other.client}, false},
		"a server, as a client": {[]tls.Certificate{wrongUse}, false},
	} {
		if got := read(pki, test.clients...); strings.HasPrefix(got, "GET /x") != test.ok {
			t.Errorf("%s: %q", name, got)
		}
	}
	if err := f.Identify(other.identity("first")); err != nil {
		t.Fatal(err)
	}
	if got := read(other, other.client); !strings.HasPrefix(got, "GET /x") {
		t.Errorf("after another identity its client gets %q", got)
	}
	if got := read(other, pki.client); strings.HasPrefix(got, "GET /x") {
		t.Error("after another identity the first one's client is let in")
	}
	bad := pki.identity("first")
	bad.CA = "none"
	if f.Identify(bad) == nil {
		t.Error("an identity without a CA is taken")
	}
	if conn, err := net.Dial("tcp", address); err == nil { // no plain TCP
		conn.SetDeadline(time.Now().Add(10 * time.Second))
		io.WriteString(conn, "GET /_ping HTTP/1.0\r\n\r\n")
		if b, _ := io.ReadAll(conn); bytes.Contains(b, []byte("HTTP")) {
			t.Errorf("plain TCP is answered %q", b)
		}
	}
}

// Who comes to a machine that was frozen waits until it is somebody again.
func TestFrontWaitsForIdentity(t *testing.T) {
	pki, other := newTestPKI(t, "first"), newTestPKI(t, "first")
	f, address := startFront(t, pki, func(conn *net.UnixConn) { io.WriteString(conn, "here"); conn.Close() })
	dial := func(by *testPKI) chan string {
		heard := make(chan string, 1)
		go func() {
			conn, err := dialFront(address, by, by.client)
			if err != nil {
				heard <- err.Error()
				return
			}
			defer conn.Close()
			b, _ := io.ReadAll(conn)
			heard <- string(b)
		}()
		return heard
	}
	waits := func() bool {
		f.mu.Lock()
		defer f.mu.Unlock()
		return f.opened != nil
	}
	for _, test := range []struct { // in this order: it is another by then
		name   string
		client *testPKI
		end    func() error
	}{
		{"another", other, func() error { return f.Identify(other.identity("first")) }},
		{"itself", other, func() error { f.Open(); return nil }},
	} {
		f.Shut()
		heard := dial(test.client)
		for !waits() {
			time.Sleep(time.Millisecond)
		}
		if len(heard) > 0 {
			t.Fatalf("%s: before there is an identity: %q", test.name, <-heard)
		}
		if err := test.end(); err != nil {
			t.Fatal(err)
		}
		if got := <-heard; got != "here" {
			t.Errorf("%s: %q", test.name, got)
		}
	}
	f.Shut()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := f.await(ctx); err == nil {
		t.Error("nobody is let in")
	}
}

func TestFrontWithoutEngine(t *testing.T) {
	pki := newTestPKI(t, "first")
	f, address := startFront(t, pki, nil)
	f.socket = "/no/such"
	conn, err := dialFront(address, pki, pki.client)
	if err != nil {
		t.Fatal(err)
	}
	if b, _ := io.ReadAll(conn); !strings.HasPrefix(string(b), "HTTP/1.1 503 ") {
		t.Errorf("answer %q", b)
	}
}

func TestRewriteOldVersion(t *testing.T) {
	for in, want := range map[string]string{
		"GET /v1.15/version HTTP/1.1\r\n": "GET /version HTTP/1.1\r\n",
		"GET /v1.45/version HTTP/1.1\r\n": "GET /v1.45/version HTTP/1.1\r\n",
		"GET /v1.15/info HTTP/1.1\r\n":    "GET /v1.15/info HTTP/1.1\r\n",
		"G":                               "G",
		"":                                "",
	} {
		if got, _ := io.ReadAll(rewriteOldVersion(strings.NewReader(in))); string(got) != want {
			t.Errorf("%q became %q, want %q", in, got, want)
		}
	}
}

// Machines that were thawed from one state have that front in common, and none may read
// the tickets of another's sessions.
func TestFrontForgetsSessions(t *testing.T) {
	pki := newTestPKI(t, "first")
	f, address := startFront(t, pki, func(c *net.UnixConn) { io.WriteString(c, "HTTP/1.0 200 OK\r\n\r\n"); c.Close() })
	pool := x509.NewCertPool()
	pool.AddCert(pki.ca)
	config := &tls.Config{RootCAs: pool, ServerName: "first", ClientSessionCache: tls.NewLRUClientSessionCache(1),
		Certificates: []tls.Certificate{pki.client}}
	resumes := func() bool {
		t.Helper()
		conn, err := tls.Dial("tcp", address, config)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		io.WriteString(conn, "GET /x HTTP/1.0\r\n\r\n")
		if _, err := io.ReadAll(conn); err != nil { // the ticket comes with it
			t.Fatal(err)
		}
		return conn.ConnectionState().DidResume
	}
	resumes()
	if !resumes() {
		t.Error("a session is not resumed")
	}
	if err := f.Identify(pki.identity("first")); err != nil {
		t.Fatal(err)
	}
	if resumes() {
		t.Error("a session of an earlier identity is resumed")
	}
}

// docker-machine may know the engine by another port, which is behind the same TLS.
func TestFrontAtAnotherPort(t *testing.T) {
	pki := newTestPKI(t, "first")
	f, _ := startFront(t, pki, func(conn *net.UnixConn) { conn.Write([]byte("output")); conn.Close() })
	free := func() (port uint16, address string) {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		return uint16(l.Addr().(*net.TCPAddr).Port), l.Addr().String()
	}
	one, first := free()
	if err := f.AddPort(one); err != nil {
		t.Fatal(err)
	}
	conn, err := dialFront(first, pki, pki.client)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(conn); string(got) != "output" {
		t.Errorf("the client reads %q, %v", got, err)
	}
	if conn, err := dialFront(first, pki); err == nil {
		if got, err := io.ReadAll(conn); err == nil {
			t.Errorf("a client without a certificate reads %q", got)
		}
	}
	other, second := free()
	for _, port := range []uint16{one, other, other} { // said again, it stays
		if err := f.AddPort(port); err != nil {
			t.Fatal(err)
		}
	}
	if conn, err := net.Dial("tcp", first); err == nil {
		conn.Close()
		t.Error("the port before still answers")
	}
	if err := f.AddPort(0); err != nil {
		t.Fatal(err)
	}
	if conn, err := net.Dial("tcp", second); err == nil {
		conn.Close()
		t.Error("a port that was taken back still answers")
	}
}
