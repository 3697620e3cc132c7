package dns

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"golang.org/x/net/dns/dnsmessage"

	"github.com/hyve-vm/hyve/internal/accept"
)

// localTTL is for how many seconds an answer of our own may be kept. It is
// short because it may come from a file that the user is editing.
const localTTL = 5

// maxLocal bounds the addresses in an answer of our own, so that it fits into
// the 512 bytes that every client takes: 12 of header, at most 260 of question,
// at most 28 an address.
const maxLocal = 8

// Names of the host and of the gateway, without a final dot.
const (
	HostName    = "host.docker.internal"
	GatewayName = "gateway.docker.internal"
)

// internalZone is the zone that the names of the virtual network are in.
const internalZone = "docker.internal."

// A resolver answers the guest's queries. What resolves on the host shall
// resolve in the guest, to the same addresses, and fail in the same way, so it
// asks in this order:
//
//  1. itself, about docker.internal, localhost and the virtual network;
//  2. the host's hosts file, about addresses; the host's loopback is Config.Host
//     in the answer, since that is where the guest finds it;
//  3. the host's own resolver, about addresses, where it knows more than the
//     name servers do: macOS asks a different one for the names of each VPN, and
//     mDNS for .local. On Linux that is the job of the local name server
//     (systemd-resolved, dnsmasq) which resolv.conf names;
//  4. the name servers in the host's resolv.conf, about everything, with the
//     query as it came and the answer as it comes: any type, DNSSEC, TTLs.
//
// It keeps nothing from one query to the next but the parsed hosts file, which
// it reads again when it changes. When nobody answers, the answer is "server
// failure", never "no such name": the guest must not remember that a name does
// not exist because the host was offline.
type resolver struct {
	host, gateway netip.Addr

	resolvConf string
	serverPort uint16        // of the name servers in it
	patience   time.Duration // queryTimeout
	stagger    time.Duration // nextServerAfter
	hosts      hostsFile
	system     systemLookup   // nil where the name servers know everything
	sockets    *accept.Budget // of those that ask name servers; nil: no bound
}

// systemLookup returns the addresses of both families that the host's resolver
// finds, or an error.
type systemLookup func(ctx context.Context, name string) ([]netip.Addr, error)

func newResolver(c Config) *resolver {
	return &resolver{
		host:       c.Host,
		gateway:    c.Gateway,
		sockets:    c.Sockets,
		resolvConf: "/etc/resolv.conf",
		serverPort: Port,
		patience:   queryTimeout,
		stagger:    nextServerAfter,
		hosts:      hostsFile{path: "/etc/hosts"},
		system:     platformLookup,
	}
}

// answer returns the answer to a query that came by transport "udp" or "tcp",
// or nil if it deserves none.
func (r *resolver) answer(ctx context.Context, query []byte, transport string) []byte {
	var p dnsmessage.Parser
	h, err := p.Start(query)
	if err != nil || h.Response {
		return nil
	}
	q, err := p.Question()
	if err != nil {
		return reply(h, nil, dnsmessage.RCodeFormatError, nil)
	}
	if _, err := p.Question(); err != dnsmessage.ErrSectionDone {
		return reply(h, nil, dnsmessage.RCodeFormatError, nil)
	}
	switch {
	case h.OpCode != 0:
		return reply(h, &q, dnsmessage.RCodeNotImplemented, nil)
	case q.Class != dnsmessage.ClassINET, q.Type == dnsmessage.TypeAXFR, q.Type == typeIXFR:
		return reply(h, &q, dnsmessage.RCodeRefused, nil)
	}
	if answer := r.local(h, q); answer != nil {
		return answer
	}
	ctx, cancel := context.WithTimeout(ctx, r.patience)
	defer cancel()
	if q.Type == dnsmessage.TypeA || q.Type == dnsmessage.TypeAAAA {
		if addrs, ok := r.addresses(ctx, q.Name.String()); ok {
			return addressReply(h, q, addrs)
		}
	}
	var servers []netip.AddrPort
	for _, a := range nameServers(r.resolvConf) {
		servers = append(servers, netip.AddrPortFrom(a, r.serverPort))
	}
	answer, err := r.forward(ctx, servers, query, q, transport)
	if err != nil {
		return reply(h, &q, dnsmessage.RCodeServerFailure, nil)
	}
	return answer
}

// typeIXFR is an incremental zone transfer: RFC 1995.
const typeIXFR dnsmessage.Type = 251

// local answers from what is the same in every machine.
func (r *resolver) local(h dnsmessage.Header, q dnsmessage.Question) []byte {
	name := strings.ToLower(q.Name.String())
	_, reverseZone, _ := strings.Cut(reverseName(r.gateway), ".")
	switch {
	case name == HostName+".":
		return addressReply(h, q, []netip.Addr{r.host})
	case name == GatewayName+".":
		return addressReply(h, q, []netip.Addr{r.gateway})
	case name == internalZone:
		return reply(h, &q, dnsmessage.RCodeSuccess, nil)
	case strings.HasSuffix(name, "."+internalZone):
		return reply(h, &q, dnsmessage.RCodeNameError, nil)
	case isLocalhost(name): // RFC 6761, 6.3
		return addressReply(h, q, []netip.Addr{loopback, netip.IPv6Loopback()})
	case name == reverseName(r.host):
		return pointerReply(h, q, HostName+".")
	case name == reverseName(r.gateway):
		return pointerReply(h, q, GatewayName+".")
	case name == reverseZone:
		return reply(h, &q, dnsmessage.RCodeSuccess, nil)
	case strings.HasSuffix(name, "."+reverseZone):
		return reply(h, &q, dnsmessage.RCodeNameError, nil)
	}
	return nil
}

// reverseName is the name of which the pointer is an IPv4 address's name: RFC 1035, 3.5.
func reverseName(a netip.Addr) string {
	b := a.As4()
	return fmt.Sprintf("%d.%d.%d.%d.in-addr.arpa.", b[3], b[2], b[1], b[0])
}

func isLocalhost(name string) bool {
	return name == "localhost." || strings.HasSuffix(name, ".localhost.")
}

// addresses returns what the host itself knows about a name, of both families,
// and whether it knows the name.
func (r *resolver) addresses(ctx context.Context, name string) ([]netip.Addr, bool) {
	if addrs, ok := r.hosts.lookup(strings.TrimSuffix(strings.ToLower(name), ".")); ok {
		return r.seenFromGuest(addrs), true
	}
	if r.system == nil {
		return nil, false
	}
	addrs, err := r.system(ctx, name)
	// An error says too little: macOS says "no such host" when it is offline.
	// The name servers decide.
	if err != nil || len(addrs) == 0 {
		return nil, false
	}
	return r.seenFromGuest(addrs), true
}

// seenFromGuest replaces the host's loopback by the address at which the guest
// reaches it.
func (r *resolver) seenFromGuest(addrs []netip.Addr) []netip.Addr {
	var seen []netip.Addr
	for _, a := range addrs {
		if a = a.Unmap().WithZone(""); a.IsLoopback() {
			if a.Is6() {
				continue
			}
			a = r.host
		}
		if !slices.Contains(seen, a) {
			seen = append(seen, a)
		}
	}
	return seen
}

// addressReply answers with those addresses that are of the question's type.
func addressReply(h dnsmessage.Header, q dnsmessage.Question, addrs []netip.Addr) []byte {
	return reply(h, &q, dnsmessage.RCodeSuccess, func(b *dnsmessage.Builder) error {
		rh := dnsmessage.ResourceHeader{Name: q.Name, Class: q.Class, TTL: localTTL}
		n := 0
		for _, a := range addrs {
			var err error
			switch {
			case n == maxLocal:
			case q.Type == dnsmessage.TypeA && a.Is4():
				n++
				err = b.AResource(rh, dnsmessage.AResource{A: a.As4()})
			case q.Type == dnsmessage.TypeAAAA && a.Is6():
				n++
				err = b.AAAAResource(rh, dnsmessage.AAAAResource{AAAA: a.As16()})
			}
			if err != nil {
				return err
			}
		}
		return nil
	})
}

func pointerReply(h dnsmessage.Header, q dnsmessage.Question, name string) []byte {
	return reply(h, &q, dnsmessage.RCodeSuccess, func(b *dnsmessage.Builder) error {
		if q.Type != dnsmessage.TypePTR {
			return nil
		}
		ptr, err := dnsmessage.NewName(name)
		if err != nil {
			return err
		}
		rh := dnsmessage.ResourceHeader{Name: q.Name, Class: q.Class, TTL: localTTL}
		return b.PTRResource(rh, dnsmessage.PTRResource{PTR: ptr})
	})
}

// reply builds an answer of our own to a query with header h.
func reply(h dnsmessage.Header, q *dnsmessage.Question, code dnsmessage.RCode, answers func(*dnsmessage.Builder) error) []byte {
	b := dnsmessage.NewBuilder(nil, dnsmessage.Header{
		ID:                 h.ID,
		Response:           true,
		OpCode:             h.OpCode,
		RecursionDesired:   h.RecursionDesired,
		RecursionAvailable: true,
		RCode:              code,
	})
	if q != nil {
		if b.StartQuestions() != nil || b.Question(*q) != nil {
			return nil
		}
	}
	if answers != nil {
		if b.StartAnswers() != nil || answers(&b) != nil {
			return nil
		}
	}
	msg, err := b.Finish()
	if err != nil {
		return nil
	}
	return msg
}

// serverFailure answers a query for which there is no room.
func serverFailure(query []byte) []byte {
	var p dnsmessage.Parser
	h, err := p.Start(query)
	if err != nil || h.Response {
		return nil
	}
	q, err := p.Question()
	if err != nil {
		return nil
	}
	return reply(h, &q, dnsmessage.RCodeServerFailure, nil)
}
