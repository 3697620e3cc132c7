package dockerenv

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
)

// maxAnswer bounds what is read of an engine's answer, in bytes.
const maxAnswer = 64 << 10

// Ping asks the engine behind a unix socket for a sign of life and returns its
// version, as "26.1.5", which every answer of an engine carries (/version itself
// would have it run containerd's and runc's). How long it may take is the context's
// business.
func Ping(ctx context.Context, socket string) (version string, err error) {
	return ping(ctx, "http://docker", &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", socket)
		},
	})
}

// PingTLS is Ping for the engine at host, "tcp://ADDRESS:PORT", by mutual TLS with the
// ca.pem, cert.pem and key.pem in certs, as a docker client does it.
func PingTLS(ctx context.Context, host, certs string) (version string, err error) {
	ca, err := os.ReadFile(filepath.Join(certs, "ca.pem"))
	if err != nil {
		return "", fmt.Errorf("reading the CA: %w", err)
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(ca) {
		return "", fmt.Errorf("reading the CA: %s holds no certificate", filepath.Join(certs, "ca.pem"))
	}
	pair, err := tls.LoadX509KeyPair(filepath.Join(certs, "cert.pem"), filepath.Join(certs, "key.pem"))
	if err != nil {
		return "", fmt.Errorf("reading the client's certificate: %w", err)
	}
	return ping(ctx, "https://"+strings.TrimPrefix(host, "tcp://"), &http.Transport{
		DisableKeepAlives: true,
		TLSClientConfig:   &tls.Config{RootCAs: roots, Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12},
	})
}

func ping(ctx context.Context, base string, transport *http.Transport) (version string, err error) {
	client := http.Client{Transport: transport}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, base+"/_ping", nil)
	if err != nil {
		return "", fmt.Errorf("asking the engine: %w", err)
	}
	response, err := client.Do(request)
	if err != nil {
		return "", fmt.Errorf("asking the engine: %w", err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(io.LimitReader(response.Body, maxAnswer))
	if err != nil {
		return "", fmt.Errorf("asking the engine: %w", err)
	}
	if response.StatusCode != http.StatusOK {
		var answer struct{ Message string }
		if json.Unmarshal(body, &answer) != nil || answer.Message == "" {
			answer.Message = strings.TrimSpace(string(body[:min(len(body), 200)]))
		}
		return "", fmt.Errorf("asking the engine: %s: %s", response.Status, answer.Message)
	}
	// "Docker/26.1.5+dfsg1 (linux)"
	server, _, _ := strings.Cut(response.Header.Get("Server"), " ")
	version, ok := strings.CutPrefix(server, "Docker/")
	if !ok {
		return "", fmt.Errorf("asking the engine: the answer is not an engine's but of %q", server)
	}
	return version, nil
}
