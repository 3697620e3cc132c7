package network

import (
	"context"
	"net"
	"slices"
	"testing"

	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
)

// The gateway is the guest's name server, and knows who is who in the virtual network.
func TestGatewayAnswersDNS(t *testing.T) {
	_, g := newPair(t, Config{})
	gateway := fullAddress(GatewayIP + ":53")
	for protocol, dial := range map[string]func(ctx context.Context, network, address string) (net.Conn, error){
		"UDP": func(context.Context, string, string) (net.Conn, error) {
			return gonet.DialUDP(g.stack, nil, &gateway, ipv4.ProtocolNumber)
		},
		"TCP": func(ctx context.Context, _, _ string) (net.Conn, error) {
			return gonet.DialContextTCP(ctx, g.stack, gateway, ipv4.ProtocolNumber)
		},
	} {
		r := &net.Resolver{PreferGo: true, Dial: dial}
		for name, address := range map[string]string{HostName + ".": HostIP, GatewayName + ".": GatewayIP} {
			if got, err := r.LookupHost(t.Context(), name); err != nil || !slices.Equal(got, []string{address}) {
				t.Errorf("%s over %s: %q, %v; want %s", name, protocol, got, err, address)
			}
			if got, err := r.LookupAddr(t.Context(), address); err != nil || !slices.Equal(got, []string{name}) {
				t.Errorf("%s over %s: %q, %v; want %s", address, protocol, got, err, name)
			}
		}
	}
}
