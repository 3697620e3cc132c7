package supervisor

import (
	"net"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/hyve-vm/hyve/internal/network"
)

// hostProxies returns the host's proxies as the guest has to see them. Of a variable in both
// spellings that in small letters counts, as for Go's programs and curl.
func hostProxies(getenv func(string) string) map[string]string {
	proxies := map[string]string{}
	for _, name := range []string{"HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY"} {
		value := getenv(strings.ToLower(name))
		if value == "" {
			value = getenv(name)
		}
		if value == "" {
			continue
		}
		if name != "NO_PROXY" {
			value = proxyForGuest(value)
		}
		proxies[name] = value
	}
	return proxies
}

// proxyPorts are those of proxies that name none, as Go's programs have them.
var proxyPorts = map[string]string{"http": "80", "https": "443", "socks4": "1080", "socks4a": "1080", "socks5": "1080", "socks5h": "1080"}

// proxyForGuest returns where a proxy is for the guest: one on the host's loopback is on
// host.docker.internal there. Others, and what is none, are left as they are.
func proxyForGuest(value string) string {
	proxy, err := url.Parse(value)
	if err != nil || proxy.Scheme == "" || proxy.Host == "" {
		// As golang.org/x/net/http/httpproxy and curl read HOST, HOST:PORT and USER@HOST.
		if proxy, err = url.Parse("http://" + value); err != nil {
			return value
		}
	}
	host, port := proxy.Hostname(), proxy.Port()
	if !isLoopback(host) && (host != "" || port == "") { // for Go's programs no host is this one
		return value
	}
	if port == "" {
		port = proxyPorts[proxy.Scheme]
	}
	if proxy.Host = network.HostName; port != "" {
		proxy.Host = net.JoinHostPort(network.HostName, port)
	}
	return proxy.String()
}

// localhosts are the names of the loopback's addresses in the hosts files of distributions;
// RFC 6761 has localhost and all that is below it.
var localhosts = []string{"localhost", "localhost.localdomain", "localhost4", "localhost4.localdomain4",
	"localhost6", "localhost6.localdomain6", "ip6-localhost", "ip6-loopback"}

// isLoopback tells whether a name or address, in any spelling that a resolver takes, is the
// host's own loopback. The unspecified address leads there, too.
func isLoopback(host string) bool {
	host = strings.TrimSuffix(strings.ToLower(host), ".")
	if slices.Contains(localhosts, host) || strings.HasSuffix(host, ".localhost") {
		return true
	}
	ip, err := netip.ParseAddr(host)
	if err != nil {
		var ok bool
		if ip, ok = parseIPv4(host); !ok {
			return false
		}
	}
	ip = ip.Unmap().WithZone("")
	return ip.IsLoopback() || ip.IsUnspecified()
}

// parseIPv4 reads an address as inet_aton(3): of one to four numbers, also octal and
// hexadecimal, of which the last one fills what is left.
func parseIPv4(text string) (netip.Addr, bool) {
	parts := strings.Split(text, ".")
	if len(parts) > 4 {
		return netip.Addr{}, false
	}
	var address uint64
	for i, part := range parts {
		base, digits := 10, part
		if hex, ok := strings.CutPrefix(part, "0x"); ok {
			base, digits = 16, hex
		} else if strings.HasPrefix(part, "0") {
			base = 8
		}
		bits := 8
		if i == len(parts)-1 {
			bits = 8 * (4 - i)
		}
		n, err := strconv.ParseUint(digits, base, bits)
		if err != nil {
			return netip.Addr{}, false
		}
		address = address<<bits | n
	}
	return netip.AddrFrom4([4]byte{byte(address >> 24), byte(address >> 16), byte(address >> 8), byte(address)}), true
}
