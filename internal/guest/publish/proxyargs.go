package publish

import (
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"

	"github.com/hyve-vm/hyve/internal/guestapi"
)

// A proxyCall is what dockerd asks of its docker-proxy.
type proxyCall struct {
	publication
	listenFD bool // dockerd has bound the port itself and passes it on
	// args are the real proxy's, which is to bind the port itself, without its address
	// and port on the outer side.
	args []string
}

// A publication is a port as dockerd's proxy is to publish it.
type publication struct {
	protocol string // "tcp", "udp", "sctp"
	hostIP   string // as given to -p, of the host
	port     uint16
	target   string // the container's address and port, or that of the guest which needs a relay; else empty
}

// A grant is where in the guest a proxy is to listen: at an address that the host's
// connections, which are IPv4, come to; or at "::", beside another proxy to which they come.
type grant struct {
	address string
	port    uint16
}

// astray tells whether dockerd has bound the port elsewhere.
func (c proxyCall) astray(g grant) bool {
	return c.listenFD && g.address != "::" && (g.port != c.port || c.hostIP != g.address)
}

// at returns the real proxy's arguments to listen there.
func (c proxyCall) at(g grant) []string {
	return append([]string{"-proto", c.protocol, "-host-ip", g.address, "-host-port", strconv.Itoa(int(g.port))}, c.args...)
}

// parseProxyCall reads docker-proxy's arguments, argv[0] left out. Flags begin
// with one hyphen or two, their value follows after = or as the next argument.
// Flags that are not known are passed on.
func parseProxyCall(args []string) (proxyCall, error) {
	var c proxyCall
	target := map[string]string{}
	for i := 0; i < len(args); i++ {
		name, value, joined := strings.Cut(strings.TrimLeft(args[i], "-"), "=")
		if !strings.HasPrefix(args[i], "-") {
			c.args = append(c.args, args[i])
			continue
		}
		known := slices.Contains([]string{"proto", "host-ip", "host-port", "container-ip", "container-port"}, name)
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
		case "host-port":
			port, err := strconv.ParseUint(value, 10, 16)
			if err != nil {
				return c, fmt.Errorf("reading docker-proxy's arguments: host-port: %w", err)
			}
			c.port = uint16(port)
		case "container-ip", "container-port":
			target[name] = value
			c.args = append(c.args, "-"+name, value)
		case "use-listen-fd":
			c.listenFD = !joined || value == "true"
		default:
			c.args = append(c.args, args[i])
		}
	}
	c.target = net.JoinHostPort(target["container-ip"], target["container-port"])
	if c.protocol == "" || c.port == 0 {
		return c, fmt.Errorf("reading docker-proxy's arguments: want -proto and -host-port, have %q", args)
	}
	return c, nil
}

// portLine is what the proxy tells PID 1.
func (p publication) portLine() string {
	return fmt.Sprintf("port %s %s %d %s", p.protocol, p.hostIP, p.port, p.target)
}

// parsePortLine reads a portLine's fields after its first word.
func parsePortLine(fields []string) (p publication, err error) {
	if len(fields) != 4 {
		return p, fmt.Errorf("reading a published port: want 4 fields, have %d", len(fields))
	}
	p.protocol, p.hostIP, p.target = fields[0], fields[1], fields[3]
	if !slices.Contains([]string{"tcp", "udp", "sctp"}, p.protocol) {
		return p, fmt.Errorf("reading a published port: unknown protocol %q", p.protocol)
	}
	n, err := strconv.ParseUint(fields[2], 10, 16)
	if err != nil || n == 0 {
		return p, fmt.Errorf("reading a published port: want a port from 1 to 65535, have %q", fields[2])
	}
	p.port = uint16(n)
	if _, err := p.event(); err != nil {
		return p, fmt.Errorf("reading a published port: %w", err)
	}
	return p, nil
}

// event is what the host is told of it.
func (p publication) event() (e guestapi.PortOpened, err error) {
	e.Protocol, e.Port = guestapi.NewText(p.protocol), p.port
	e.HostIP, err = guestapi.ParseAddress(p.hostIP)
	return e, err
}

// PID 1 answers a portLine with a grant, or with why the port cannot be had.
const (
	portGranted = "ok"
	portRefused = "refused"
)

// parseGrant reads PID 1's answer.
func parseGrant(answer string) (g grant, refused string, err error) {
	answer = strings.TrimSuffix(answer, "\n")
	if text, ok := strings.CutPrefix(answer, portRefused+" "); ok {
		return g, text, nil
	}
	if fields := strings.Fields(answer); len(fields) == 3 && fields[0] == portGranted {
		n, err := strconv.ParseUint(fields[2], 10, 16)
		if err == nil && n != 0 && (fields[1] == "::" || fields[1] == "0.0.0.0") {
			return grant{fields[1], uint16(n)}, "", nil
		}
	}
	return g, "", fmt.Errorf("PID 1 answered %q", answer)
}

// refusal is how docker-proxy says that it cannot listen, for dockerd to print.
func (p publication) refusal(why string) string {
	family := "4"
	if strings.Contains(p.hostIP, ":") {
		family = "6"
	}
	return fmt.Sprintf("listen %s%s %s: %s", p.protocol, family, net.JoinHostPort(p.hostIP, strconv.Itoa(int(p.port))), why)
}
