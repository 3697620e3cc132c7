package dockermachine

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/hyve-vm/hyve/internal/machine"
)

// configVersion is that of config.json as docker-machine has written it since 0.5.6.
const configVersion = 3

// A document is docker-machine's config.json: github.com/docker/machine/libmachine/host.
// Fields are in its order, since that is how it is printed.
type document struct {
	ConfigVersion int
	Driver        json.RawMessage
	DriverName    string
	HostOptions   *hostOptions
	Name          string
}

type hostOptions struct {
	Driver        string
	Memory        int
	Disk          int
	EngineOptions engineOptions
	SwarmOptions  swarmOptions
	AuthOptions   authOptions
}

type engineOptions struct {
	ArbitraryFlags   []string
	Dns              []string
	GraphDir         string
	Env              []string
	Ipv6             bool
	InsecureRegistry []string
	Labels           []string
	LogLevel         string
	StorageDriver    string
	SelinuxEnabled   bool
	TlsVerify        bool
	RegistryMirror   []string
	InstallURL       string
}

type swarmOptions struct {
	IsSwarm            bool
	Address            string
	Discovery          string
	Agent              bool
	Master             bool
	Host               string
	Image              string
	Strategy           string
	Heartbeat          int
	Overcommit         float64
	ArbitraryFlags     []string
	ArbitraryJoinFlags []string
	Env                []string
	IsExperimental     bool
}

type authOptions struct {
	CertDir              string
	CaCertPath           string
	CaPrivateKeyPath     string
	CaCertRemotePath     string
	ServerCertPath       string
	ServerKeyPath        string
	ClientKeyPath        string
	ServerCertRemotePath string
	ServerKeyRemotePath  string
	ClientCertPath       string
	ServerCertSANs       []string
	StorePath            string
}

// baseDriver is what the Driver of every config.json begins with.
type baseDriver struct {
	IPAddress      string
	MachineName    string
	SSHUser        string
	SSHPort        int
	SSHKeyPath     string
	StorePath      string
	SwarmMaster    bool
	SwarmHost      string
	SwarmDiscovery string
}

// hyveDriver is the Driver of hyve's machines, with the names of the xhyve driver.
// Memory and DiskSize are in MB.
type hyveDriver struct {
	baseDriver
	CPU      int
	Memory   int64
	DiskSize int64
	Image    string
	Endpoint string // DOCKER_HOST for the private socket
}

// maxConfig bounds a config.json, in bytes.
const maxConfig = 1 << 20

var errFromFuture = errors.New("config version is from the future -- you should upgrade your Docker Machine client")

// parseDocument reads a config.json that docker-machine has written.
func parseDocument(data []byte) (*document, error) {
	if len(data) > maxConfig {
		return nil, fmt.Errorf("it is larger than %s", machine.FormatSize(maxConfig))
	}
	d := new(document)
	if err := json.Unmarshal(data, d); err != nil {
		return nil, err
	}
	switch {
	case d.ConfigVersion > configVersion:
		return nil, errFromFuture
	case d.ConfigVersion < configVersion:
		return nil, fmt.Errorf("its version %d is older than %d; its own docker-machine brings it up to date", d.ConfigVersion, configVersion)
	case d.DriverName == "" || len(d.Driver) == 0 || d.Driver[0] != '{':
		return nil, errors.New("it names no driver")
	case d.HostOptions == nil:
		d.HostOptions = new(hostOptions)
	}
	return d, nil
}

// base is the part of the Driver that all drivers have.
func (d *document) base() (base baseDriver) {
	decodeDriver(d, &base) // what does not fit is empty
	return base
}

// decodeDriver reads what a driver keeps of its own.
func decodeDriver(d *document, into any) error { return json.Unmarshal(d.Driver, into) }

// text is the document as docker-machine prints it, harmless for terminals.
func (d *document) text() (string, error) {
	data, err := json.MarshalIndent(d, "", "    ")
	if err != nil {
		return "", fmt.Errorf("encoding machine %q: %w", d.Name, err)
	}
	var b strings.Builder
	for _, r := range string(data) {
		if r >= 0x7f && r < 0xa0 {
			fmt.Fprintf(&b, `\u%04x`, r)
			continue
		}
		b.WriteRune(r)
	}
	return b.String(), nil
}

// fields are the document's as templates see them.
func (d *document) fields() (map[string]any, error) {
	data, err := json.Marshal(d)
	if err != nil {
		return nil, fmt.Errorf("encoding machine %q: %w", d.Name, err)
	}
	fields := map[string]any{}
	decoder := json.NewDecoder(bytes.NewReader(data))
	return fields, decoder.Decode(&fields)
}

// documentOf is the config.json that a machine of hyve's would have. ssh is where its SSH
// server answers (HOST:PORT), "" where it does not run; base is the storage path.
func documentOf(m *machine.Machine, ssh, base string) (*document, error) {
	dir := string(m.Dir())
	driver, err := json.Marshal(hyveDriver{
		baseDriver: baseDriver{
			IPAddress: m.Address.String(), MachineName: m.Name, SSHUser: "docker", SSHPort: portOf(ssh),
			SSHKeyPath: filepath.Join(dir, "id_ed25519"), StorePath: base,
		},
		CPU: m.CPUs, Memory: m.Memory >> 20, DiskSize: m.Disk >> 20, Image: m.Image,
		Endpoint: "unix://" + m.Dir().DockerSocket(),
	})
	if err != nil {
		return nil, fmt.Errorf("encoding machine %q: %w", m.Name, err)
	}
	pki := m.Home().PKIDir()
	return &document{
		ConfigVersion: configVersion,
		Driver:        driver,
		DriverName:    driverOf(m),
		Name:          m.Name,
		HostOptions: &hostOptions{
			EngineOptions: engineOptions{
				ArbitraryFlags:   list(m.EngineOptions),
				Env:              list(m.EngineEnv),
				InsecureRegistry: list(m.InsecureRegistries),
				// The label of the driver is not the user's.
				Labels:         list(slices.DeleteFunc(slices.Clone(m.Labels), func(l string) bool { return l == providerLabel(driverOf(m)) })),
				StorageDriver:  "overlay2",
				TlsVerify:      true,
				RegistryMirror: list(m.RegistryMirrors),
				InstallURL:     installURL,
			},
			SwarmOptions: noSwarm(),
			AuthOptions: authOptions{
				CertDir:          pki,
				CaCertPath:       filepath.Join(pki, "ca.pem"),
				CaPrivateKeyPath: filepath.Join(pki, "ca-key.pem"),
				ClientCertPath:   filepath.Join(pki, "cert.pem"),
				ClientKeyPath:    filepath.Join(pki, "key.pem"),
				ServerCertPath:   filepath.Join(m.Dir().ServerDir(), "server.pem"),
				ServerKeyPath:    filepath.Join(m.Dir().ServerDir(), "server-key.pem"),
				ServerCertSANs:   list(m.CertNames),
				StorePath:        dir,
			},
		},
	}, nil
}

// noSwarm are the swarm options of a machine without one.
func noSwarm() swarmOptions {
	return swarmOptions{
		Host: "tcp://0.0.0.0:3376", Image: "swarm:latest", Strategy: "spread",
		ArbitraryFlags: []string{}, ArbitraryJoinFlags: []string{},
	}
}

// list is never null in JSON.
func list(s []string) []string {
	if s == nil {
		return []string{}
	}
	return s
}

func portOf(address string) int {
	_, text, _ := net.SplitHostPort(address)
	port, _ := strconv.Atoi(text)
	return port
}

// driverOf is the driver's name that a machine shows: the one it was asked for by.
func driverOf(m *machine.Machine) string {
	if m.Driver == "" {
		return "hyve"
	}
	return m.Driver
}

// providerLabel is the label that docker-machine gives every engine.
func providerLabel(driver string) string { return "provider=" + driver }
