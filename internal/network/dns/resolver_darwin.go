package dns

import (
	"context"
	"net"
	"net/netip"
)

// platformLookup asks macOS's resolver (getaddrinfo, which Go calls without
// cgo), because resolv.conf has only the primary network's name servers there.
var platformLookup systemLookup = func(ctx context.Context, name string) ([]netip.Addr, error) {
	return (&net.Resolver{}).LookupNetIP(ctx, "ip", name)
}
