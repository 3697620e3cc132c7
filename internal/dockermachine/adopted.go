package dockermachine

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"

	"github.com/hyve-vm/hyve/internal/bounded"
	"github.com/hyve-vm/hyve/internal/hint"
	"github.com/hyve-vm/hyve/internal/machine"
	"github.com/hyve-vm/hyve/internal/machinestore"
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

// checkURL returns what is wrong with an adopted engine's URL. Nothing is taken that would
// be something else to a shell or to another reader of URLs.
func checkURL(text string) error {
	address, ok := strings.CutPrefix(strings.TrimSuffix(text, "/"), "tcp://")
	host, port, err := net.SplitHostPort(address)
	n, bad := strconv.ParseUint(port, 10, 16)
	if !ok || err != nil || bad != nil || n == 0 || !isHost(host) || strings.HasPrefix(address, "[") != strings.Contains(host, ":") {
		return hint.With(
			fmt.Errorf("%.200q is not of the form tcp://HOST:PORT", text),
			"for engines that are reached in another way: docker context create",
		)
	}
	return nil
}

// isHost tells whether a text is an address or has the form of a host's name.
func isHost(text string) bool {
	if address, err := netip.ParseAddr(text); err == nil {
		return address.Zone() == ""
	}
	return len(text) <= 253 && urlHost.MatchString(text)
}

var urlHost = regexp.MustCompile(`^[a-zA-Z0-9_]([a-zA-Z0-9_.-]*[a-zA-Z0-9_.])?$`)

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
	e := &engine{dir: home.Engine(name)}
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
	dirs, err := os.ReadDir(home.Engines())
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

// keep keeps an engine with the certificates to show it, hyve's own if there are none. Its
// directory gets its name last.
func (e *engine) keep(home machine.Home, own *certificates) error {
	draft, err := home.DraftEngine()
	if err != nil {
		return err
	}
	defer draft.Discard()
	data, err := json.Marshal(e)
	if err != nil {
		return fmt.Errorf("encoding the engine: %w", err)
	}
	files := map[string][]byte{"engine.json": data}
	if own != nil {
		files["ca.pem"], files["cert.pem"], files["key.pem"] = own.ca, own.cert, own.key
	}
	for name, data := range files {
		if err := os.WriteFile(filepath.Join(string(draft.Dir()), name), data, 0o600); err != nil {
			return fmt.Errorf("keeping the engine: %w", err)
		}
	}
	return draft.Commit(e.Name)
}

// disown forgets an adopted engine, which goes on.
func disown(home machine.Home, name string) error {
	if !hostName.MatchString(name) {
		return errors.New("it has no engine's name")
	}
	return home.RemoveEngine(name)
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
