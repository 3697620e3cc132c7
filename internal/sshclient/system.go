package sshclient

import (
	"fmt"
	"net"
	"path/filepath"
	"strings"

	"github.com/google/renameio/v2"

	"github.com/hyve-vm/hyve/internal/bounded"
	"github.com/hyve-vm/hyve/internal/machine"
	"github.com/hyve-vm/hyve/internal/pki"
)

// Access is what an SSH client of the system needs to know of a machine.
type Access struct {
	User, Host, Port string
	Key              string // path of the private key
	Alias            string // the machine's name, under which KnownHosts has its key
	KnownHosts       string // path
}

// System returns how the system's SSH clients reach a machine that runs, whose SSH
// server is at address (HOST:PORT). It brings the machine's known_hosts up to date.
func System(m *machine.Machine, address string) (Access, error) {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return Access{}, fmt.Errorf("reading the address of machine %q: %w", m.Name, err)
	}
	key, err := pki.OpenSSHKey(m.Dir().HostKey())
	if err != nil {
		return Access{}, err
	}
	access := Access{
		User: User, Host: host, Port: port, Alias: m.Name,
		Key: filepath.Join(string(m.Dir()), "id_ed25519"), KnownHosts: m.Dir().KnownHosts(),
	}
	line := m.Name + " " + key.Public() + "\n"
	if old, err := bounded.ReadFile(access.KnownHosts, bounded.MaxDocument); err == nil && string(old) == line {
		return access, nil
	}
	if err := renameio.WriteFile(access.KnownHosts, []byte(line), 0o600, renameio.WithTempDir(string(m.Dir()))); err != nil {
		return Access{}, fmt.Errorf("writing %s: %w", access.KnownHosts, err)
	}
	return access, nil
}

// HostKeyOptions have a client insist on the machine's own key, each "NAME=VALUE" as
// after ssh's -o.
func (a Access) HostKeyOptions() []string {
	return []string{
		"StrictHostKeyChecking=yes",
		"HostKeyAlias=" + a.Alias,
		"UserKnownHostsFile=" + quotePath(a.KnownHosts),
		"GlobalKnownHostsFile=/dev/null",
	}
}

// Options are all that there is to say, as HostKeyOptions.
func (a Access) Options() []string {
	return append(a.HostKeyOptions(),
		"HostName="+a.Host,
		"Port="+a.Port,
		"User="+a.User,
		"IdentityFile="+quotePath(a.Key),
		"IdentitiesOnly=yes",
		"PasswordAuthentication=no",
		"ControlMaster=no",
		"ControlPath=none",
		"LogLevel=ERROR",
	)
}

// quotePath writes a path as ssh_config(5) has it: % begins a token, and ~ the home.
func quotePath(path string) string {
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`, `%`, `%%`).Replace(path) + `"`
}

// config is an ssh_config(5) in which each machine is a host of its alias.
func config(hosts map[string]Access) string {
	var b strings.Builder
	for alias, access := range hosts {
		fmt.Fprintf(&b, "Host %s\n", alias)
		for _, option := range access.Options() {
			name, value, _ := strings.Cut(option, "=")
			fmt.Fprintf(&b, "\t%s %s\n", name, value)
		}
	}
	return b.String()
}
