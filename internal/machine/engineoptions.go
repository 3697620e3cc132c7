package machine

import (
	"fmt"
	"net"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/hyve-vm/hyve/internal/guestapi"
	"github.com/hyve-vm/hyve/internal/hint"
)

// storageDrivers are those that a dockerd can have, with containerd's. Which of them it has,
// and whether they work, it says itself.
var storageDrivers = []string{"btrfs", "fuse-overlayfs", "native", "overlay2", "overlayfs", "vfs", "zfs"}

// checkEngineOption returns what is wrong with an option of dockerd: its form, and what is
// sure to keep the engine from running. dockerd knows the rest.
func checkEngineOption(option string) error {
	if !engineOption.MatchString(option) {
		return fmt.Errorf("engine option %.200q is not of the form NAME or NAME=VALUE, with dockerd's long name and without dashes", option)
	}
	name, value, _ := strings.Cut(option, "=")
	switch name {
	case "help", "validate", "version":
		return fmt.Errorf("with the engine option %q dockerd would end at once", name)
	case "storage-driver":
		if !slices.Contains(storageDrivers, value) {
			return fmt.Errorf("storage driver %.80q is not one that the engine can have: %s", value, strings.Join(storageDrivers, ", "))
		}
	case "insecure-registry":
		return checkInsecure(value)
	case "registry-mirror":
		return checkMirror(value)
	}
	return nil
}

// checkNotOwned returns which of the options no machine can be given. One that has them
// all the same, made by an older hyve, goes on without.
func checkNotOwned(options []string) error {
	for _, option := range options {
		if name, owned := guestapi.OwnedOption(option); owned {
			return hint.With(
				fmt.Errorf("the engine option %q belongs to hyve, which keeps the engine reachable and private", name),
				"clients find the engine by hyve env, a docker context and hyve url; --tls-san adds names to its certificate",
			)
		}
	}
	return nil
}

// registryHost is the host, with or without a port, of a reference to an image: DomainRegexp
// of github.com/distribution/reference.
var registryHost = regexp.MustCompile(`^(([a-zA-Z0-9]|[a-zA-Z0-9][a-zA-Z0-9-]*[a-zA-Z0-9])(\.([a-zA-Z0-9]|[a-zA-Z0-9][a-zA-Z0-9-]*[a-zA-Z0-9]))*|\[[a-fA-F0-9:]+\])(:[0-9]+)?$`)

// checkInsecure returns why dockerd would refuse a registry that needs no TLS: see
// loadInsecureRegistries in github.com/docker/docker/registry.
func checkInsecure(registry string) error {
	bad := fmt.Errorf("insecure registry %.200q is not of the form HOST, HOST:PORT or ADDRESS/BITS", registry)
	if strings.HasPrefix(registry, "-") || strings.HasSuffix(registry, "-") {
		return bad
	}
	rest := registry
	for _, scheme := range []string{"http://", "https://"} { // which dockerd takes off
		if len(rest) >= len(scheme) && strings.EqualFold(rest[:len(scheme)], scheme) {
			rest = rest[len(scheme):]
			break
		}
	}
	if _, err := netip.ParsePrefix(rest); err == nil {
		return nil
	}
	host, port, err := net.SplitHostPort(rest)
	if err != nil {
		host, port = rest, ""
	}
	if !registryHost.MatchString(rest) && net.ParseIP(host) == nil {
		return bad
	}
	if _, err := strconv.ParseUint(port, 10, 16); port != "" && err != nil {
		return bad
	}
	return nil
}
