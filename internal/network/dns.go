package network

import (
	"fmt"

	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"

	"github.com/hyve-vm/hyve/internal/network/dns"
)

// serveDNS has the gateway answer DNS until Close.
func (n *Network) serveDNS() error {
	addr := gatewayAddress(dns.Port)
	udp, err := gonet.DialUDP(n.stack, &addr, nil, ipv4.ProtocolNumber)
	if err != nil {
		return fmt.Errorf("listening on the gateway's UDP port %d: %w", dns.Port, err)
	}
	tcp, err := gonet.ListenTCP(n.stack, addr, ipv4.ProtocolNumber)
	if err != nil {
		_ = udp.Close()
		return fmt.Errorf("listening on the gateway's TCP port %d: %w", dns.Port, err)
	}
	server := dns.New(dns.Config{Host: hostIP, Gateway: gatewayIP, Sockets: n.lookups, Log: n.config.Log})
	n.spawn(func() { server.ServeUDP(n.ctx, udp) })
	n.spawn(func() { server.ServeTCP(n.ctx, tcp) })
	return nil
}
