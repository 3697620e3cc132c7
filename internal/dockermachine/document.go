package dockermachine

import (
	"encoding/json"
	"fmt"
	"net"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/hyve-vm/hyve/internal/machine"
	"github.com/hyve-vm/hyve/internal/machinestore"
)

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

// baseOf is the part of the Driver that all drivers have.
func baseOf(h *machinestore.Host) (base baseDriver) {
	decodeDriver(h, &base) // what does not fit is empty
	return base
}

// decodeDriver reads what a driver keeps of its own.
func decodeDriver(h *machinestore.Host, into any) error { return json.Unmarshal(h.Driver, into) }

// textOf is a config.json as docker-machine prints it, harmless for terminals.
func textOf(h *machinestore.Host) (string, error) {
	data, err := json.MarshalIndent(h, "", "    ")
	if err != nil {
		return "", fmt.Errorf("encoding machine %q: %w", h.Name, err)
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

// fieldsOf are a config.json's as templates see them.
func fieldsOf(h *machinestore.Host) (map[string]any, error) {
	data, err := json.Marshal(h)
	if err != nil {
		return nil, fmt.Errorf("encoding machine %q: %w", h.Name, err)
	}
	fields := map[string]any{}
	return fields, json.Unmarshal(data, &fields)
}

// documentOf is the config.json that a machine of hyve's would have. ssh is where its SSH
// server answers (HOST:PORT), "" where it does not run; base is the storage path.
func documentOf(m *machine.Machine, ssh, base string) (*machinestore.Host, error) {
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
	return &machinestore.Host{
		ConfigVersion: machinestore.Version,
		Driver:        driver,
		DriverName:    driverOf(m),
		Name:          m.Name,
		HostOptions: machinestore.HostOptions{
			EngineOptions: machinestore.EngineOptions{
				ArbitraryFlags:   list(m.EngineOptions),
				Env:              list(m.EngineEnv),
				InsecureRegistry: list(m.InsecureRegistries),
				// The label of the driver is not the user's.
				Labels:         list(slices.DeleteFunc(slices.Clone(m.Labels), func(l string) bool { return l == providerLabel(driverOf(m)) })),
				StorageDriver:  "overlay2",
				TLSVerify:      true,
				RegistryMirror: list(m.RegistryMirrors),
				InstallURL:     installURL,
			},
			SwarmOptions: noSwarm(),
			AuthOptions: machinestore.AuthOptions{
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
func noSwarm() machinestore.SwarmOptions {
	return machinestore.SwarmOptions{
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
