package dockerenv

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/url"
	"path/filepath"
	"regexp"
	"strings"
	"sync"

	"github.com/hyve-vm/hyve/internal/bounded"
	"github.com/hyve-vm/hyve/internal/hint"
)

// An Endpoint is where an engine answers.
type Endpoint struct {
	// Host is an address as in DOCKER_HOST: unix:///PATH, tcp://HOST:PORT or
	// ssh://USER@HOST:PORT.
	Host string
	// TLS is how an engine behind TCP is spoken to, nil for plain TCP.
	TLS *tls.Config
}

// maxMeta bounds a context's meta.json and each file with a certificate or key, in bytes.
const maxMeta = 1 << 20

// contextPattern is what docker allows for a context's name. It takes long to compile, for
// commands that name none.
var contextPattern = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9_.+-]{0,254}$`) })

// Endpoint returns where the engine of a docker context answers. As with the docker CLI,
// "default" is what DOCKER_HOST, DOCKER_TLS_VERIFY and DOCKER_CERT_PATH say, else the
// socket of an engine on this host. An address stands for itself.
func (s Store) Endpoint(getenv func(string) string, name string) (Endpoint, error) {
	switch {
	case strings.Contains(name, "://"):
		return Endpoint{Host: name}, checkHost(name)
	case name == "default":
		return defaultEndpoint(getenv)
	case !contextPattern().MatchString(name):
		return Endpoint{}, fmt.Errorf("%.80q is no name of a docker context", name)
	}
	data, err := bounded.ReadFile(filepath.Join(s.dirOf("meta", name), "meta.json"), maxMeta)
	if errors.Is(err, fs.ErrNotExist) {
		return Endpoint{}, hint.With(fmt.Errorf("there is no docker context %q", name), "docker context ls lists them")
	}
	var meta contextMeta
	if err == nil {
		err = json.Unmarshal(data, &meta)
	}
	if err != nil {
		return Endpoint{}, fmt.Errorf("reading the docker context %s: %w", name, err)
	}
	there := meta.Endpoints["docker"]
	e := Endpoint{Host: there.Host}
	if err := checkHost(e.Host); err != nil {
		return Endpoint{}, fmt.Errorf("reading the docker context %s: %w", name, err)
	}
	if e.TLS, err = readTLS(filepath.Join(s.dirOf("tls", name), "docker"), there.SkipTLSVerify); err != nil {
		return Endpoint{}, fmt.Errorf("reading the docker context %s: %w", name, err)
	}
	return e, nil
}

func defaultEndpoint(getenv func(string) string) (Endpoint, error) {
	e := Endpoint{Host: cmp.Or(getenv("DOCKER_HOST"), "unix://"+defaultSocket)}
	if err := checkHost(e.Host); err != nil {
		return Endpoint{}, fmt.Errorf("reading DOCKER_HOST: %w", err)
	}
	if getenv("DOCKER_TLS_VERIFY") == "" && getenv("DOCKER_TLS") == "" {
		return e, nil
	}
	dir := cmp.Or(getenv("DOCKER_CERT_PATH"), filepath.Join(getenv("HOME"), ".docker"))
	var err error
	if e.TLS, err = readTLS(dir, getenv("DOCKER_TLS_VERIFY") == ""); err == nil && e.TLS == nil {
		err = fmt.Errorf("there are no certificates in %s", dir)
	}
	if err != nil {
		return Endpoint{}, fmt.Errorf("reading DOCKER_CERT_PATH: %w", err)
	}
	return e, nil
}

// socketOf returns the path of the unix socket that an address names. It is taken to the
// letter, as docker's client does: it is no URL, in which some characters mean something.
func socketOf(host string) (path string, ok bool) {
	path, ok = strings.CutPrefix(host, "unix://")
	return path, ok && filepath.IsAbs(path)
}

// checkHost returns what is wrong with an engine's address, nil if nothing is.
func checkHost(host string) error {
	if _, ok := socketOf(host); ok {
		return nil
	}
	u, err := url.Parse(host)
	if err != nil {
		return fmt.Errorf("%.200q is no address of an engine", host)
	}
	switch u.Scheme {
	case "tcp", "ssh":
		// A host that begins with a hyphen would be an option to ssh.
		if u.Hostname() != "" && !strings.HasPrefix(u.Hostname(), "-") && strings.Trim(u.Path, "/") == "" {
			return nil
		}
	case "npipe":
		return errors.New("its engine answers on a named pipe of Windows, which hyve does not speak")
	}
	return fmt.Errorf("%.200q is no address of an engine: unix:///PATH, tcp://HOST:PORT or ssh://USER@HOST", host)
}

// readTLS makes what a client needs of ca.pem, cert.pem and key.pem, nil if none is there.
func readTLS(dir string, skipVerify bool) (*tls.Config, error) {
	pems := map[string][]byte{}
	for _, file := range []string{"ca.pem", "cert.pem", "key.pem"} {
		data, err := bounded.ReadFile(filepath.Join(dir, file), maxMeta)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
		if err == nil {
			pems[file] = data
		}
	}
	if len(pems) == 0 && !skipVerify {
		return nil, nil
	}
	config := &tls.Config{MinVersion: tls.VersionTLS12, InsecureSkipVerify: skipVerify}
	if ca, ok := pems["ca.pem"]; ok {
		config.RootCAs = x509.NewCertPool()
		if !config.RootCAs.AppendCertsFromPEM(ca) {
			return nil, fmt.Errorf("%s holds no certificate", filepath.Join(dir, "ca.pem"))
		}
	}
	if pems["cert.pem"] != nil || pems["key.pem"] != nil {
		pair, err := tls.X509KeyPair(pems["cert.pem"], pems["key.pem"])
		if err != nil {
			return nil, fmt.Errorf("reading the certificate in %s: %w", dir, err)
		}
		config.Certificates = []tls.Certificate{pair}
	}
	return config, nil
}

// dial connects to an engine, without TLS.
func (e Endpoint) dial(ctx context.Context) (net.Conn, error) {
	if path, ok := socketOf(e.Host); ok {
		return new(net.Dialer).DialContext(ctx, "unix", path)
	}
	u, err := url.Parse(e.Host)
	if err != nil {
		return nil, err
	}
	if u.Scheme == "ssh" {
		return dialSSH(u)
	}
	port := "2375"
	if e.TLS != nil {
		port = "2376"
	}
	return new(net.Dialer).DialContext(ctx, "tcp", net.JoinHostPort(u.Hostname(), cmp.Or(u.Port(), port)))
}

// base is what URLs of the engine's API begin with.
func (e Endpoint) base() string {
	if e.TLS == nil {
		return "http://docker"
	}
	u, err := url.Parse(e.Host)
	if err != nil || u.Hostname() == "" {
		return "https://docker"
	}
	host := u.Hostname()
	if strings.Contains(host, ":") {
		host = "[" + host + "]"
	}
	return "https://" + host // the name that its certificate is for
}
