// Package machinestore reads docker-machine's store: which machines it has and how they
// were made. It never writes there.
//
// The store's form is that of docker-machine 0.16, github.com/docker/machine's
// libmachine/persist and libmachine/host.
package machinestore

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"

	"github.com/hyve-vm/hyve/internal/bounded"
)

// Version is the newest ConfigVersion that is known.
const Version = 3

// maxConfig bounds a config.json, in bytes. docker-machine's have about 4 KiB.
const maxConfig = 1 << 20

// ErrFuture says that a config.json was written by a newer docker-machine. The words are
// docker-machine's own.
var ErrFuture = errors.New("config version is from the future -- you should upgrade your Docker Machine client")

// ErrNotFound says that a store has no machine of a name.
var ErrNotFound = errors.New("docker-machine has no machine of that name")

// ErrUnreadable says that it cannot be seen what is in a store.
var ErrUnreadable = errors.New("docker-machine's store cannot be read")

// A Store is the directory of a docker-machine store. It need not exist.
type Store string

// Default returns the store in $MACHINE_STORAGE_PATH, else ~/.docker/machine.
func Default(getenv func(string) string) (Store, error) {
	if dir := getenv("MACHINE_STORAGE_PATH"); dir != "" {
		return Store(dir), nil
	}
	home := getenv("HOME")
	if home == "" {
		return "", errors.New("finding docker-machine's store: neither MACHINE_STORAGE_PATH nor HOME is set")
	}
	return Store(filepath.Join(home, ".docker", "machine")), nil
}

// MachinesDir holds a directory for each machine.
func (s Store) MachinesDir() string { return filepath.Join(string(s), "machines") }

// Dir is the directory of the machine of that name.
func (s Store) Dir(name string) string { return filepath.Join(s.MachinesDir(), name) }

// Names returns the names of all machines, sorted as a directory is. As to docker-machine
// a machine is there if its directory is, and hidden ones are none. The names come from
// the file system and may hold any character. A store that is not there has none. The error
// wraps ErrUnreadable.
func (s Store) Names() ([]string, error) {
	entries, err := os.ReadDir(s.MachinesDir())
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w: %w", ErrUnreadable, err)
	}
	var names []string
	for _, e := range entries {
		if e.IsDir() && !strings.HasPrefix(e.Name(), ".") {
			names = append(names, e.Name())
		}
	}
	return names, nil
}

// namePattern is what docker-machine allows for a machine's name.
var namePattern = regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9\-\.]*$`)

// Load reads a machine's config.json. The error is ErrNotFound if there is no such
// machine, wraps ErrUnreadable if it cannot be seen whether there is one, and ErrFuture if
// it is of a newer docker-machine.
func (s Store) Load(name string) (*Host, error) {
	if !namePattern.MatchString(name) {
		return nil, fmt.Errorf("%.80q is no name of a docker-machine", name)
	}
	info, err := os.Stat(s.Dir(name))
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENAMETOOLONG) || err == nil && !info.IsDir() {
		return nil, ErrNotFound
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrUnreadable, err)
	}
	data, err := readConfig(filepath.Join(s.Dir(name), "config.json"))
	if err == nil {
		var host *Host
		if host, err = parse(data); err == nil {
			host.Name = name // as docker-machine has it, whatever the file says
			return host, nil
		}
	}
	return nil, fmt.Errorf("reading docker-machine's %s: %w", name, err)
}

// readConfig reads a config.json.
func readConfig(path string) ([]byte, error) {
	data, err := bounded.ReadFile(path, maxConfig)
	if size := (*bounded.SizeError)(nil); errors.As(err, &size) {
		return nil, fmt.Errorf("its config.json is larger than %d bytes", maxConfig)
	}
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, errors.New("its config.json is missing")
	case errors.Is(err, bounded.ErrIrregular):
		return nil, errors.New("its config.json is not a file")
	}
	return data, err
}

// A Host is a machine as its config.json describes it. Fields and their order are the
// file's.
type Host struct {
	ConfigVersion int
	// Driver is what the driver keeps of the machine, see VM.
	Driver      json.RawMessage
	DriverName  string
	HostOptions HostOptions
	Name        string
}

// HostOptions are those of the machine that are not its driver's.
type HostOptions struct {
	Driver        string
	Memory        int
	Disk          int
	EngineOptions EngineOptions
	SwarmOptions  SwarmOptions
	AuthOptions   AuthOptions
}

// EngineOptions are what docker-machine told the engine, as the flags of its word create
// give them: ArbitraryFlags are dockerd's flags without dashes, Env is NAME=VALUE, Labels
// are KEY=VALUE.
type EngineOptions struct {
	ArbitraryFlags   []string
	DNS              []string `json:"Dns"`
	GraphDir         string
	Env              []string
	Ipv6             bool
	InsecureRegistry []string
	Labels           []string
	LogLevel         string
	StorageDriver    string
	SelinuxEnabled   bool
	TLSVerify        bool `json:"TlsVerify"`
	RegistryMirror   []string
	InstallURL       string
}

// SwarmOptions are those of the old stand-alone Swarm.
type SwarmOptions struct {
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

// AuthOptions say where certificates and keys are, as absolute paths of the host and, where
// they are remote, of the guest.
type AuthOptions struct {
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

// parse reads a config.json.
func parse(data []byte) (*Host, error) {
	if !bytes.HasPrefix(bytes.TrimLeft(data, " \t\r\n"), []byte("{")) { // null would do, too
		return nil, errors.New("its config.json is not a JSON object")
	}
	// An older one may lack what a newer one has. The version comes first: of a newer
	// one, nothing else can be told.
	var version struct{ ConfigVersion int }
	if err := json.Unmarshal(data, &version); err != nil {
		return nil, fmt.Errorf("its config.json is damaged: %w", err)
	}
	if version.ConfigVersion > Version {
		return nil, ErrFuture
	}
	host := new(Host)
	if err := json.Unmarshal(data, host); err != nil {
		return nil, fmt.Errorf("its config.json is damaged: %w", err)
	}
	if host.DriverName == "" {
		return nil, errors.New("its config.json names no driver")
	}
	if !namePattern.MatchString(host.DriverName) {
		return nil, fmt.Errorf("its config.json names a driver that cannot be: %.80q", host.DriverName)
	}
	if !bytes.HasPrefix(host.Driver, []byte("{")) {
		return nil, errors.New("its config.json says nothing of its driver's")
	}
	return host, nil
}
