package dockerenv

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"
)

// maxAnswer bounds what is read of an engine's answer, in bytes.
const maxAnswer = 64 << 10

// Ping asks the engine behind a unix socket for a sign of life and returns its
// version, as "26.1.5", which every answer of an engine carries (/version itself
// would have it run containerd's and runc's). How long it may take is the context's
// business.
func Ping(ctx context.Context, socket string) (version string, err error) {
	return ping(ctx, Endpoint{Host: "unix://" + socket})
}

// PingTLS is Ping for the engine at host, "tcp://ADDRESS:PORT", by mutual TLS with the
// ca.pem, cert.pem and key.pem in certs, as a docker client does it.
func PingTLS(ctx context.Context, host, certs string) (version string, err error) {
	config, err := readTLS(certs, false)
	if err == nil && config == nil {
		err = fmt.Errorf("there are no certificates in %s", certs)
	}
	if err != nil {
		return "", fmt.Errorf("asking the engine: %w", err)
	}
	return ping(ctx, Endpoint{Host: host, TLS: config})
}

// CheckCertificates returns what is wrong with the ca.pem, cert.pem and key.pem in a
// directory that is to be DOCKER_CERT_PATH: one is missing or damaged, or the client's
// certificate is out of date.
func CheckCertificates(certs string) error {
	config, err := readTLS(certs, false)
	switch {
	case err != nil:
		return err
	case config == nil || config.RootCAs == nil || len(config.Certificates) == 0:
		return fmt.Errorf("there are no certificates in %s", certs)
	}
	if end := config.Certificates[0].Leaf.NotAfter; time.Now().After(end) {
		return fmt.Errorf("the client's certificate in %s has expired on %s", certs, end.Format(time.DateOnly))
	}
	return nil
}

func ping(ctx context.Context, e Endpoint) (version string, err error) {
	engine := e.Open()
	defer engine.Close()
	response, err := engine.Do(ctx, http.MethodGet, "/_ping", nil, nil)
	if err != nil {
		return "", fmt.Errorf("asking the engine: %w", err)
	}
	defer response.Body.Close()
	if _, err := io.Copy(io.Discard, io.LimitReader(response.Body, maxAnswer)); err != nil {
		return "", fmt.Errorf("asking the engine: %w", err)
	}
	// "Docker/26.1.5+dfsg1 (linux)"
	server, _, _ := strings.Cut(response.Header.Get("Server"), " ")
	version, ok := strings.CutPrefix(server, "Docker/")
	if !ok {
		return "", fmt.Errorf("asking the engine: the answer is not an engine's but of %q", server)
	}
	return version, nil
}
