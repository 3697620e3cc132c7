package driver

import (
	"crypto/x509"
	"encoding/json"
	"maps"
	"path/filepath"
	"reflect"
	"strings"

	"github.com/hyve-vm/hyve/internal/bounded"
)

// config is what docker-machine keeps of a machine for its driver, in "Driver" of the
// machine's config.json. The first fields are those of libmachine's BaseDriver, which
// scripts read; the next ones the xhyve driver's.
type config struct {
	IPAddress      string
	MachineName    string
	SSHUser        string
	SSHPort        int
	SSHKeyPath     string
	StorePath      string // docker-machine's store
	SwarmMaster    bool
	SwarmHost      string
	SwarmDiscovery string

	CPU            int   // 0: hyve's choice
	Memory         int   // MB; 0: hyve's choice
	DiskSize       int64 // MB; 0: hyve's choice
	Boot2DockerURL string

	HyveHome string // hyve's data directory, where the machine is

	// others are the fields of another version, which are kept as they are.
	others map[string]json.RawMessage
}

// own is config without its methods.
type own config

// UnmarshalJSON takes what is there over what there is.
func (c *config) UnmarshalJSON(data []byte) error {
	if err := json.Unmarshal(data, (*own)(c)); err != nil {
		return err
	}
	others := map[string]json.RawMessage{}
	if err := json.Unmarshal(data, &others); err != nil {
		return err
	}
	fields := reflect.TypeFor[own]()
	maps.DeleteFunc(others, func(name string, _ json.RawMessage) bool {
		f, ok := fields.FieldByNameFunc(func(field string) bool { return strings.EqualFold(field, name) })
		return ok && f.IsExported()
	})
	c.others = others
	return nil
}

// MarshalJSON writes the fields and those of another version.
func (c config) MarshalJSON() ([]byte, error) {
	data, err := json.Marshal(own(c))
	if err != nil || len(c.others) == 0 {
		return data, err
	}
	fields := maps.Clone(c.others)
	if err := json.Unmarshal(data, &fields); err != nil {
		return nil, err
	}
	return json.Marshal(fields)
}

// machineDir is the machine's directory in docker-machine's store.
func (c *config) machineDir() string {
	return filepath.Join(c.StorePath, "machines", c.MachineName)
}

// keyPath is where the client finds the key that it logs in with. docker-machine has
// called it id_rsa since there were no others.
func (c *config) keyPath() string {
	if c.SSHKeyPath != "" {
		return c.SSHKeyPath
	}
	return filepath.Join(c.machineDir(), "id_rsa")
}

// engineCAs returns the CA that docker-machine signs the engine's certificate with, none
// if it cannot be read. Its own copy for the machine comes with the provisioning.
func (c *config) engineCAs() []string {
	for _, dir := range []string{c.machineDir(), filepath.Join(c.StorePath, "certs")} {
		ca, err := bounded.ReadFile(filepath.Join(dir, "ca.pem"), bounded.MaxDocument)
		if err == nil && x509.NewCertPool().AppendCertsFromPEM(ca) {
			return []string{string(ca)}
		}
	}
	return nil
}
