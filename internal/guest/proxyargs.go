package guest

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// A proxyCall is what dockerd asks of its docker-proxy.
type proxyCall struct {
	protocol string // "tcp", "udp", "sctp"
	hostIP   string
	port     uint16
	listenFD bool // dockerd has bound the port itself and passes it on
	// args are the real proxy's, which is to bind the port itself, at an address that
	// the host can reach.
	args []string
}

// astray tells whether dockerd has bound the port to an address that the host's
// connections do not come to.
func (c proxyCall) astray() bool {
	addr, err := netip.ParseAddr(c.hostIP)
	return c.listenFD && err == nil && !addr.IsUnspecified()
}

// at returns args for another address.
func (c proxyCall) at(address string) []string {
	args := slices.Clone(c.args)
	if i := slices.Index(args, "-host-ip"); i >= 0 && i+1 < len(args) {
		args[i+1] = address
	}
	return args
}

// parseProxyCall reads docker-proxy's arguments, argv[0] left out. Flags begin
// with one hyphen or two, their value follows after = or as the next argument.
// Flags that are not known are passed on.
func parseProxyCall(args []string) (proxyCall, error) {
	var c proxyCall
	for i := 0; i < len(args); i++ {
		name, value, joined := strings.Cut(strings.TrimLeft(args[i], "-"), "=")
		if !strings.HasPrefix(args[i], "-") {
			c.args = append(c.args, args[i])
			continue
		}
		known := name == "proto" || name == "host-ip" || name == "host-port"
		if known && !joined {
			if i++; i >= len(args) {
				return c, fmt.Errorf("reading docker-proxy's arguments: %s without a value", name)
			}
			value = args[i]
		}
		switch name {
		case "proto":
			c.protocol = value
		case "host-ip":
			c.hostIP = value
			value = reachable(value)
		case "host-port":
			port, err := strconv.ParseUint(value, 10, 16)
			if err != nil {
				return c, fmt.Errorf("reading docker-proxy's arguments: host-port: %w", err)
			}
			c.port = uint16(port)
		case "use-listen-fd":
			c.listenFD = !joined || value == "true"
			continue
		}
		if known {
			c.args = append(c.args, "-"+name, value)
		} else {
			c.args = append(c.args, args[i])
		}
	}
	if c.protocol == "" || c.port == 0 {
		return c, fmt.Errorf("reading docker-proxy's arguments: want -proto and -host-port, have %q", args)
	}
	return c, nil
}

// reachable returns the address to listen on in the guest for one that the user
// gave to -p, who means an address of the host: the host's own proxy listens
// there and comes in over the network card.
func reachable(hostIP string) string {
	addr, err := netip.ParseAddr(hostIP)
	switch {
	case err != nil:
		return hostIP
	case addr.Is4():
		return "0.0.0.0"
	}
	return "::"
}

// portLine is what the proxy tells PID 1.
func (c proxyCall) portLine() string {
	return fmt.Sprintf("port %s %s %d", c.protocol, c.hostIP, c.port)
}

// parsePortLine reads a portLine's fields after its first word.
func parsePortLine(fields []string) (protocol, hostIP string, port uint16, err error) {
	if len(fields) != 3 {
		return "", "", 0, fmt.Errorf("reading a published port: want 3 fields, have %q", fields)
	}
	switch fields[0] {
	case "tcp", "udp", "sctp":
	default:
		return "", "", 0, fmt.Errorf("reading a published port: unknown protocol %q", fields[0])
	}
	if _, err := netip.ParseAddr(fields[1]); err != nil {
		return "", "", 0, fmt.Errorf("reading a published port: %w", err)
	}
	n, err := strconv.ParseUint(fields[2], 10, 16)
	if err != nil || n == 0 {
		return "", "", 0, fmt.Errorf("reading a published port: want a port from 1 to 65535, have %q", fields[2])
	}
	return fields[0], fields[1], uint16(n), nil
}
