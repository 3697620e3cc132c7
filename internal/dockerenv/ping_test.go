package dockerenv

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hyve-vm/hyve/internal/pki"
)

// engine answers pings on a new socket with that Server header, status and body.
func engine(t *testing.T, name string, status int, body string) string {
	t.Helper()
	socket := filepath.Join(t.TempDir(), "docker.sock")
	listener, err := net.Listen("unix", socket)
	must(t, err)
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Server", name)
		if r.URL.Path != "/_ping" {
			status = http.StatusNotFound
		}
		w.WriteHeader(status)
		fmt.Fprint(w, body)
	})}
	go server.Serve(listener)
	t.Cleanup(func() { server.Close() })
	return socket
}

func TestEngineAnswers(t *testing.T) {
	for name, want := range map[string]string{
		"Docker/26.1.5+dfsg1 (linux)": "26.1.5+dfsg1",
		"Docker/29.0.0":               "29.0.0",
	} {
		if version, err := Ping(t.Context(), engine(t, name, 200, "OK")); version != want || err != nil {
			t.Errorf("%s: got %q, error %v", name, version, err)
		}
	}
}

func TestEngineErrors(t *testing.T) {
	const docker = "Docker/26.1.5 (linux)"
	for name, test := range map[string]struct {
		server     string
		status     int
		body, want string
	}{
		"its message":   {docker, 500, `{"message":"containerd is gone"}`, "500 Internal Server Error: containerd is gone"},
		"no JSON":       {docker, 502, "bad gateway\n", "502 Bad Gateway: bad gateway"},
		"not an engine": {"nginx", 200, "OK", `not an engine's but of "nginx"`},
	} {
		if version, err := Ping(t.Context(), engine(t, test.server, test.status, test.body)); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: got %q, error %v, want %q", name, version, err, test.want)
		}
	}
	if _, err := Ping(t.Context(), filepath.Join(t.TempDir(), "none")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no socket: %v", err)
	}
}

func TestSilentEngine(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "docker.sock")
	listener, err := net.Listen("unix", socket)
	must(t, err)
	defer listener.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := Ping(ctx, socket); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
}

// The engine and the client have to know each other.
func TestPingTLS(t *testing.T) {
	ca, err := pki.OpenCA(t.TempDir())
	must(t, err)
	pair, err := ca.Server(t.TempDir(), []string{"engine"}, []netip.Addr{netip.MustParseAddr("127.0.0.1")})
	must(t, err)
	clients := x509.NewCertPool()
	clients.AppendCertsFromPEM(ca.PEM())
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Server", "Docker/26.1.5 (linux)")
	}))
	server.Config.ErrorLog = log.New(io.Discard, "", 0)
	server.TLS = &tls.Config{Certificates: []tls.Certificate{pair.Certificate}, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: clients}
	server.StartTLS()
	defer server.Close()
	host := "tcp://" + server.Listener.Addr().String()

	good, other, empty := t.TempDir(), t.TempDir(), t.TempDir()
	must(t, ca.Export(good))
	stranger, err := pki.OpenCA(t.TempDir())
	must(t, err)
	must(t, stranger.Export(other))
	if version, err := PingTLS(t.Context(), host, good); version != "26.1.5" || err != nil {
		t.Errorf("got %q, error %v", version, err)
	}
	if _, err := PingTLS(t.Context(), host, other); err == nil || !strings.Contains(err.Error(), "unknown authority") {
		t.Errorf("another CA's engine: %v", err)
	}
	must(t, os.WriteFile(filepath.Join(other, "ca.pem"), ca.PEM(), 0o600))
	if _, err := PingTLS(t.Context(), host, other); err == nil {
		t.Error("another CA's client is let in")
	}
	if _, err := PingTLS(t.Context(), host, empty); err == nil || !strings.Contains(err.Error(), "there are no certificates in "+empty) {
		t.Errorf("no certificates: %v", err)
	}
	must(t, os.WriteFile(filepath.Join(empty, "ca.pem"), []byte("x"), 0o600))
	if _, err := PingTLS(t.Context(), host, empty); err == nil || !strings.Contains(err.Error(), "holds no certificate") {
		t.Errorf("no CA in it: %v", err)
	}
}

func TestFlags(t *testing.T) {
	want := `--tlsverify --tlscacert="/a \"b\"/ca.pem" --tlscert="/a \"b\"/cert.pem" --tlskey="/a \"b\"/key.pem" -H=tcp://127.18.0.1:2376`
	if got := strings.Join(Flags("tcp://127.18.0.1:2376", `/a "b"`), " "); got != want {
		t.Errorf("got %s", got)
	}
}

func TestCheckCertificates(t *testing.T) {
	ca, err := pki.OpenCA(t.TempDir())
	must(t, err)
	for name, want := range map[string]string{"": "", "ca.pem": "there are no certificates", "cert.pem": "reading the certificate", "key.pem": "reading the certificate"} {
		dir := t.TempDir()
		must(t, ca.Export(dir))
		if name != "" {
			must(t, os.Remove(filepath.Join(dir, name)))
		}
		if err := CheckCertificates(dir); want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("without %q: %v", name, err)
		}
	}
	dir := t.TempDir()
	must(t, ca.Export(dir))
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	old := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(-time.Hour)}
	cert, err := x509.CreateCertificate(rand.Reader, old, old, key.Public(), key)
	must(t, err)
	private, err := x509.MarshalPKCS8PrivateKey(key)
	must(t, err)
	write(t, filepath.Join(dir, "cert.pem"), string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert})))
	write(t, filepath.Join(dir, "key.pem"), string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private})))
	if err := CheckCertificates(dir); err == nil || !strings.Contains(err.Error(), "has expired on") {
		t.Errorf("an old one: %v", err)
	}
	if err := CheckCertificates(filepath.Join(t.TempDir(), "none")); err == nil || !strings.Contains(err.Error(), "there are no certificates") {
		t.Errorf("without a directory: %v", err)
	}
}
