package dockermachine

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strconv"

	"github.com/hyve-vm/hyve/internal/bounded"
	"github.com/hyve-vm/hyve/internal/machine"
	"github.com/hyve-vm/hyve/internal/machinestore"
	"github.com/hyve-vm/hyve/internal/pki"
)

// An engine is one that somebody else runs, adopted by "create --driver none". It is a
// directory below the data directory's "engines": engine.json and, unless hyve's own
// certificates are meant, ca.pem, cert.pem and key.pem for docker clients.
type engine struct {
	Name string `json:"name"`
	URL  string `json:"url"` // tcp://HOST:PORT
	// Labels are those that it was given here, "key=value".
	Labels []string `json:"labels,omitempty"`
	// Format is the version of this file's form.
	Format int `json:"format"`

	dir, certs string
}

const engineFormat = 1

func enginesDir(home machine.Home) string { return filepath.Join(string(home), "engines") }

func engineDir(home machine.Home, name string) string { return filepath.Join(enginesDir(home), name) }

// checkURL returns what is wrong with an adopted engine's URL.
func checkURL(text string) error {
	u, err := url.Parse(text)
	if err != nil {
		return err
	}
	host, port, err := net.SplitHostPort(u.Host)
	if _, bad := strconv.ParseUint(port, 10, 16); u.Scheme != "tcp" || err != nil || host == "" || bad != nil || u.User != nil || (u.Path != "" && u.Path != "/") {
		return &wayOut{
			fmt.Errorf("%q is not of the form tcp://HOST:PORT", text),
			"for engines that are reached in another way: docker context create",
		}
	}
	return nil
}

// host is the engine's HOST:PORT.
func (e *engine) host() string {
	u, err := url.Parse(e.URL)
	if err != nil {
		return ""
	}
	return u.Host
}

// loadEngine reads an adopted engine. The error is fs.ErrNotExist if there is none.
func loadEngine(home machine.Home, name string) (*engine, error) {
	e := &engine{dir: engineDir(home, name)}
	path := filepath.Join(e.dir, "engine.json")
	data, err := bounded.ReadFile(path, bounded.MaxDocument)
	if err == nil {
		err = json.Unmarshal(data, e)
	}
	if err == nil && (e.Name != name || e.Format != engineFormat) {
		err = fmt.Errorf("it is of engine %q, in format %d", e.Name, e.Format)
	}
	if err == nil {
		err = checkURL(e.URL)
	}
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", path, err)
	}
	e.certs = home.PKIDir()
	if _, err := os.Stat(filepath.Join(e.dir, "ca.pem")); err == nil {
		e.certs = e.dir
	}
	return e, nil
}

// engineNames returns the adopted engines' names.
func engineNames(home machine.Home) ([]string, error) {
	dirs, err := os.ReadDir(enginesDir(home))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("listing the adopted engines: %w", err)
	}
	var names []string
	for _, dir := range dirs {
		if dir.IsDir() && hostName.MatchString(dir.Name()) {
			names = append(names, dir.Name())
		}
	}
	return names, nil
}

// adopt keeps an engine, with the certificates to show it: hyve's own, or those of the
// command line. Its file is written last, and the directory gets its name then.
func (c *client) adopt(name, address string, labels []string) error {
	if err := checkURL(address); err != nil {
		return err
	}
	ca, err := pki.OpenCA(c.home.PKIDir())
	if err != nil {
		return err
	}
	parent := enginesDir(c.home)
	if err := os.MkdirAll(parent, 0o700); err != nil {
		return fmt.Errorf("making the directory of the engines: %w", err)
	}
	draft, err := os.MkdirTemp(parent, ".draft-")
	if err != nil {
		return fmt.Errorf("making the engine's directory: %w", err)
	}
	defer os.RemoveAll(draft)
	if c.caCert != "" || c.clientCert != "" || c.clientKey != "" {
		if err := c.keepCertificates(ca, draft); err != nil {
			return err
		}
	}
	data, err := json.Marshal(engine{Name: name, URL: address, Labels: labels, Format: engineFormat})
	if err != nil {
		return fmt.Errorf("encoding the engine: %w", err)
	}
	if err := os.WriteFile(filepath.Join(draft, "engine.json"), data, 0o600); err != nil {
		return fmt.Errorf("keeping the engine: %w", err)
	}
	if err := os.Rename(draft, engineDir(c.home, name)); err != nil {
		return fmt.Errorf("keeping the engine: %w", err)
	}
	return nil
}

// keepCertificates copies what the command line names for docker clients, and hyve's own
// for what it does not name.
func (c *client) keepCertificates(ca *pki.CA, dir string) error {
	pair, err := ca.Client()
	if err != nil {
		return err
	}
	for _, file := range []struct {
		name, from string
		data       []byte
	}{
		{"ca.pem", c.caCert, ca.PEM()}, {"cert.pem", c.clientCert, pair.CertPEM}, {"key.pem", c.clientKey, pair.KeyPEM},
	} {
		if file.from != "" {
			if file.data, err = os.ReadFile(file.from); err != nil {
				return fmt.Errorf("reading a certificate: %w", err)
			}
		}
		if err := os.WriteFile(filepath.Join(dir, file.name), file.data, 0o600); err != nil {
			return fmt.Errorf("keeping a certificate: %w", err)
		}
	}
	return nil
}

// disown forgets an adopted engine, which goes on.
func disown(home machine.Home, name string) error {
	if !hostName.MatchString(name) {
		return errors.New("it has no engine's name")
	}
	gone, err := os.MkdirTemp(enginesDir(home), ".removed-")
	if err == nil {
		defer os.RemoveAll(gone)
		err = os.Rename(engineDir(home, name), filepath.Join(gone, name))
	}
	if err != nil {
		return fmt.Errorf("removing engine %q: %w", name, err)
	}
	return nil
}

// document is the config.json that docker-machine would have written for it.
func (e *engine) document(base string) (*machinestore.Host, error) {
	driver, err := json.Marshal(struct {
		baseDriver
		URL string
	}{baseDriver{IPAddress: e.host(), MachineName: e.Name, StorePath: base}, e.URL})
	if err != nil {
		return nil, fmt.Errorf("encoding engine %q: %w", e.Name, err)
	}
	return &machinestore.Host{
		ConfigVersion: machinestore.Version, Driver: driver, DriverName: driverNone, Name: e.Name,
		HostOptions: machinestore.HostOptions{
			EngineOptions: machinestore.EngineOptions{
				ArbitraryFlags: []string{}, Env: []string{}, InsecureRegistry: []string{}, Labels: list(e.Labels), RegistryMirror: []string{},
				TLSVerify: true, InstallURL: installURL,
			},
			SwarmOptions: noSwarm(),
			AuthOptions: machinestore.AuthOptions{
				CertDir: e.certs, CaCertPath: filepath.Join(e.certs, "ca.pem"), CaPrivateKeyPath: filepath.Join(e.certs, "ca-key.pem"),
				ServerCertPath: filepath.Join(e.dir, "server.pem"), ServerKeyPath: filepath.Join(e.dir, "server-key.pem"),
				ClientCertPath: filepath.Join(e.certs, "cert.pem"), ClientKeyPath: filepath.Join(e.certs, "key.pem"),
				ServerCertSANs: []string{}, StorePath: e.dir,
			},
		},
	}, nil
}
