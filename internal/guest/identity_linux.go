package guest

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/hyve-vm/hyve/internal/guest/wholefile"
	"github.com/hyve-vm/hyve/internal/guestapi"
)

// identity is the machine's present identity.
type identity struct {
	mu  sync.Mutex // held while one is applied
	now current[guestapi.Identity]
}

// cardTimeout bounds the wait for the network card.
const cardTimeout = 30 * time.Second

// applyIdentity makes this the machine of that identity, at boot and at any
// later time under a running engine. Doing it twice is doing it once. What fails
// does not keep the rest from being applied.
func (g *guest) applyIdentity(id guestapi.Identity) error {
	g.identity.mu.Lock()
	defer g.identity.mu.Unlock()
	ctx, cancel := context.WithTimeout(g.ctx, cardTimeout)
	defer cancel()
	// First of all: what follows draws random numbers.
	err := errors.Join(addEntropy(id.Seed), g.clock.apply())
	err = errors.Join(err, g.together(
		func() error { return applyName(id) },
		func() error {
			if now, ok := g.identity.now.get(); ok && now.Network == id.Network {
				return nil // nothing in the kernel has changed over a freeze
			}
			return applyNetwork(ctx, g.devices, id.Network)
		},
		func() error { return g.hostAddress.Set(id) },
		func() error {
			return errors.Join(wholefile.Write("/etc/resolv.conf", []byte(resolvConf(id.Network.Gateway, id.Surroundings)), 0o644),
				applyZone("/etc", id.Surroundings.Zone))
		},
		func() error { return g.front.Identify(id) },
		func() error { return g.ssh.Identify(id) },
	))
	g.identity.now.set(id)
	return errors.Join(err, g.engine.Identify(id))
}

var (
	validID   = regexp.MustCompile(`^[0-9a-f]{32}$`)
	validName = regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9.-]{0,63}$`)
)

// applyName sets the host name and the machine's ID.
func applyName(id guestapi.Identity) error {
	if !validName.MatchString(id.Name) {
		return fmt.Errorf("setting the host name %q: want 1 to 64 letters, digits, dots and hyphens", id.Name)
	}
	if !validID.MatchString(id.ID) {
		return fmt.Errorf("setting the machine's ID %q: want 32 lower-case hexadecimal digits", id.ID)
	}
	return errors.Join(
		setHostName(id.Name, id.Network.Address),
		wholefile.Write("/etc/machine-id", []byte(id.ID+"\n"), 0o444),
	)
}

// setHostName sets the host name in the kernel and in the files that say it.
func setHostName(name, address string) error {
	var err error
	if err = unix.Sethostname([]byte(name)); err != nil {
		err = fmt.Errorf("setting the host name: %w", err)
	}
	return errors.Join(err,
		wholefile.Write("/etc/hostname", []byte(name+"\n"), 0o644),
		wholefile.Write("/etc/hosts", []byte(hostsFile(name, address)), 0o644))
}

// proxyEnvironment is the proxies as programs look for them.
func proxyEnvironment(proxies map[string]string) []string {
	var env []string
	for name, value := range proxies {
		if value != "" {
			env = append(env, strings.ToUpper(name)+"="+value, strings.ToLower(name)+"="+value)
		}
	}
	slices.Sort(env)
	return env
}
