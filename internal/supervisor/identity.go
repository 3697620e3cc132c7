package supervisor

import (
	"bytes"
	"context"
	"crypto/rand"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"slices"
	"sync/atomic"
	"time"

	"github.com/hyve-vm/hyve/internal/guestapi"
	"github.com/hyve-vm/hyve/internal/hostenv"
	"github.com/hyve-vm/hyve/internal/machine"
	"github.com/hyve-vm/hyve/internal/network"
	"github.com/hyve-vm/hyve/internal/pki"
)

// identity is what makes the guest this machine.
type identity struct {
	machine *machine.Machine // as it was at first: name, place and address stay
	current atomic.Pointer[machine.Machine]
	told    atomic.Pointer[machine.Machine] // of which the guest was told last
	ca      atomic.Pointer[pki.CA]
	hostKey pki.SSHKey
	userKey pki.SSHKey
	shown   atomic.Pointer[pki.Pair] // what the guest was told last
	around  *surroundings
}

// openIdentity opens the machine's keys and brings what docker clients read up
// to date.
func openIdentity(m *machine.Machine) (*identity, error) {
	ca, err := pki.OpenCA(m.Home().PKIDir())
	if err != nil {
		return nil, err
	}
	id := &identity{machine: m}
	id.current.Store(m)
	id.around = &surroundings{host: hostenv.ThisHost(), parts: m.HostParts(), log: func(note string) { slog.Warn(note) }}
	go id.around.get() // while the hypervisor starts
	id.ca.Store(ca)
	if err := ca.Export(string(m.Dir()), m.EngineCAs...); err != nil {
		return nil, err
	}
	if id.userKey, err = ca.SSHKey(); err != nil {
		return nil, err
	}
	if id.hostKey, err = pki.OpenSSHKey(m.Dir().HostKey()); err != nil {
		return nil, err
	}
	_, err = id.server()
	return id, err
}

// server returns the certificate that the guest shows, renewed when needed.
func (id *identity) server() (pki.Pair, error) {
	return id.ca.Load().Server(id.machine.Dir().ServerDir(),
		append([]string{id.machine.Name, "localhost"}, id.current.Load().CertNames...),
		[]netip.Addr{id.machine.Address, netip.MustParseAddr("127.0.0.1")})
}

// configure is what a guest that boots is told first.
func (id *identity) configure() (guestapi.Request, error) {
	guest, err := id.guestIdentity()
	m := id.current.Load()
	return guestapi.Request{Configure: &guestapi.Config{
		Identity: guest,
		Engine:   guestapi.Engine{ID: m.EngineID, Options: m.EngineOptions, Env: m.EngineEnv},
	}}, err
}

// identify is what a guest that was thawed is told first.
func (id *identity) identify() (guestapi.Request, error) {
	guest, err := id.guestIdentity()
	return guestapi.Request{Identity: &guest}, err
}

// guestIdentity returns what the guest can be told at any time.
func (id *identity) guestIdentity() (guestapi.Identity, error) {
	m := id.current.Load()
	server, err := id.server()
	if err != nil {
		return guestapi.Identity{}, err
	}
	id.shown.Store(&server)
	id.told.Store(m)
	seed := make([]byte, 32)
	rand.Read(seed) // never fails
	hostAddress, hostAlias := m.Address.String(), network.AliasIP
	if m.Address == netip.MustParseAddr("127.0.0.1") { // which is everybody's
		hostAddress, hostAlias = "", ""
	}
	var proxies map[string]string
	if slices.Contains(m.HostParts(), machine.HostProxies) {
		proxies = hostProxies(os.Getenv)
	}
	return guestapi.Identity{
		Name: m.Name,
		ID:   m.ID,
		Network: guestapi.Network{
			MAC:     network.GuestMAC,
			Address: network.GuestCIDR,
			Gateway: network.GatewayIP,
			Host:    network.HostIP,
			MTU:     network.DefaultMTU,
		},
		HostAddress:        hostAddress,
		HostAlias:          hostAlias,
		Clock:              guestapi.ClockNow(),
		Seed:               seed,
		CA:                 string(id.ca.Load().PEM()),
		ServerCert:         string(server.CertPEM),
		ServerKey:          string(server.KeyPEM),
		SSHHostKey:         string(id.hostKey.PEM),
		AuthorizedKeys:     append([]string{id.userKey.Public()}, m.AuthorizedKeys...),
		Proxies:            proxies,
		Surroundings:       id.around.get(),
		RegistryMirrors:    m.RegistryMirrors,
		InsecureRegistries: m.InsecureRegistries,
		Labels:             m.Labels,
	}, nil
}

// renewal is how often certificates are looked after. They are renewed when a
// third of their life is left, which is months.
const renewal = 12 * time.Hour

// keepCertificates renews the certificates of a machine that runs for long:
// clients find theirs in the machine's directory, and tell is called when the
// guest needs a new one. What failed is tried again at the next time.
func (id *identity) keepCertificates(ctx context.Context, every time.Duration, tell func() error, failed func(error)) {
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if err := id.renew(tell); err != nil {
			failed(fmt.Errorf("renewing certificates: %w", err))
		}
	}
}

func (id *identity) renew(tell func() error) error {
	if err := id.ca.Load().Export(string(id.machine.Dir()), id.current.Load().EngineCAs...); err != nil {
		return err
	}
	now, err := id.server()
	if err != nil {
		return err
	}
	if shown := id.shown.Load(); shown != nil && bytes.Equal(now.CertPEM, shown.CertPEM) {
		return nil
	}
	return tell()
}

// reopen takes the CA as it is on disk now, and brings the machine's directory up to date.
func (id *identity) reopen() error {
	ca, err := pki.OpenCA(id.machine.Home().PKIDir())
	if err != nil {
		return err
	}
	if err := ca.Export(string(id.machine.Dir()), id.current.Load().EngineCAs...); err != nil {
		return err
	}
	id.ca.Store(ca)
	return nil
}

// newGeneration draws a VM generation ID.
func newGeneration() string {
	var b [16]byte
	rand.Read(b[:])
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}

// lastWords returns what the end of a console says of a kernel's end, or its last line.
func lastWords(tail []byte) string {
	lines := bytes.Split(bytes.TrimRight(tail, "\r\n"), []byte{'\n'})
	lines = lines[max(0, len(lines)-100):]
	for _, line := range lines {
		if _, panic, ok := bytes.Cut(line, []byte("Kernel panic")); ok {
			return "kernel panic " + guestapi.NewText(string(bytes.TrimSpace(panic))).String()
		}
	}
	if last := guestapi.NewText(string(bytes.TrimSpace(lines[len(lines)-1]))).String(); last != "" {
		return "its console ends with: " + last
	}
	return "its console says nothing"
}
