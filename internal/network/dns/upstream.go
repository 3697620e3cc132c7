package dns

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"sync"
	"time"

	"golang.org/x/net/dns/dnsmessage"

	"github.com/hyve-vm/hyve/internal/bounded"
)

const (
	// queryTimeout bounds the time for an answer. It is below the 4 s after
	// which dockerd gives up on us, and the 5 s of glibc, so that they hear
	// "server failure" rather than nothing.
	queryTimeout = 3500 * time.Millisecond

	// nextServerAfter is how long a name server is alone with a query before
	// the next one is asked as well.
	nextServerAfter = time.Second

	// maxServers is how many name servers of resolv.conf count: resolv.conf(5).
	maxServers = 3

	// maxResolvConf bounds what is read of resolv.conf, in bytes.
	maxResolvConf = 64 << 10
)

// nameServers reads the name servers from a resolv.conf, at most maxServers.
// The file is read for every query, which costs some 10 µs: whatever changes it,
// a VPN, another Wi-Fi, the user, needs not tell us. Without any in it the
// local one is meant, says resolv.conf(5).
func nameServers(path string) []netip.Addr {
	b, err := bounded.ReadFile(path, maxResolvConf)
	var servers []netip.Addr
	if err == nil {
		servers = parseResolvConf(string(b))
	}
	if len(servers) == 0 {
		servers = []netip.Addr{loopback}
	}
	return servers
}

// loopback is where a local name server is.
var loopback = netip.AddrFrom4([4]byte{127, 0, 0, 1})

func parseResolvConf(text string) []netip.Addr {
	var servers []netip.Addr
	for line := range strings.Lines(text) {
		fields := strings.Fields(line)
		if len(fields) < 2 || fields[0] != "nameserver" || len(servers) == maxServers {
			continue
		}
		if a, err := netip.ParseAddr(fields[1]); err == nil {
			servers = append(servers, a)
		}
	}
	return servers
}

// errNoAnswer is why a query fails if no name server answered it.
var errNoAnswer = errors.New("no name server answered")

// forward asks the name servers and returns the first useful answer, with the
// query's ID. A server that fails or refuses is only believed if the others do
// so, too. It ends with ctx.
func (r *resolver) forward(ctx context.Context, servers []netip.AddrPort, query []byte, q dnsmessage.Question, transport string) ([]byte, error) {
	ctx, cancel := context.WithCancel(ctx)
	attempts := servers
	if transport == "udp" { // where a datagram may have been lost
		attempts = append(append([]netip.AddrPort(nil), servers...), servers...)
	}
	answers := make(chan []byte, len(attempts)) // nil: this attempt failed
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()

	var best []byte // so far, of a server that gave up
	timer := time.NewTimer(0)
	defer timer.Stop()
	for begun, ended := 0, 0; ended < len(attempts); {
		select {
		case <-ctx.Done():
			ended = len(attempts)
		case <-timer.C:
			if begun == len(attempts) {
				continue
			}
			server := attempts[begun]
			wg.Go(func() { answers <- r.ask(ctx, server, query, q, transport) })
			begun++
			timer.Reset(r.stagger)
		case answer := <-answers:
			ended++
			if answer != nil && !gaveUp(answer) {
				best, ended = answer, len(attempts)
			} else if answer != nil {
				best = answer
			}
			// The next server has its turn at once; a second round, after a
			// lost datagram, is for servers that said nothing.
			if begun < len(servers) {
				timer.Reset(0)
			} else if begun == ended && best != nil {
				ended = len(attempts)
			}
		}
	}
	if best == nil {
		return nil, errNoAnswer
	}
	binary.BigEndian.PutUint16(best, binary.BigEndian.Uint16(query))
	return best, nil
}

// gaveUp tells an answer about the server from one about the name.
func gaveUp(answer []byte) bool {
	switch dnsmessage.RCode(answer[3] & 0xf) {
	case dnsmessage.RCodeServerFailure, dnsmessage.RCodeRefused, dnsmessage.RCodeNotImplemented:
		return true
	}
	return false
}

// ask asks one server, under an ID of our own and from a port of its own, so
// that nobody who does not see the query can answer it. It returns nil without
// an answer.
func (r *resolver) ask(ctx context.Context, server netip.AddrPort, query []byte, q dnsmessage.Question, transport string) []byte {
	if r.sockets != nil {
		if !r.sockets.Take("") {
			return nil
		}
		defer r.sockets.Give("")
	}
	var d net.Dialer
	conn, err := d.DialContext(ctx, transport, server.String())
	if err != nil {
		return nil
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })()
	query = append([]byte(nil), query...)
	if _, err := rand.Read(query[:2]); err != nil {
		return nil
	}
	answer, err := exchange(conn, query, q, transport)
	if err != nil {
		return nil
	}
	return answer
}

func exchange(conn net.Conn, query []byte, q dnsmessage.Question, transport string) ([]byte, error) {
	if transport == "tcp" {
		if err := writeMessage(conn, query); err != nil {
			return nil, err
		}
		answer, err := readMessage(conn, 0xffff)
		if err == nil && !answers(answer, query, q) {
			err = fmt.Errorf("reading an answer: it is to another question")
		}
		return answer, err
	}
	if _, err := conn.Write(query); err != nil {
		return nil, err
	}
	b := make([]byte, 64<<10)
	for {
		n, err := conn.Read(b)
		if err != nil {
			return nil, err
		}
		if answers(b[:n], query, q) {
			return b[:n:n], nil
		}
	}
}

// answers tells whether a message is an answer to the query, whose question is
// q. A server that could not read the question need not repeat it.
func answers(answer, query []byte, q dnsmessage.Question) bool {
	var p dnsmessage.Parser
	h, err := p.Start(answer)
	if err != nil || !h.Response || h.ID != binary.BigEndian.Uint16(query) {
		return false
	}
	aq, err := p.Question()
	if err == dnsmessage.ErrSectionDone {
		return h.RCode != dnsmessage.RCodeSuccess
	}
	return err == nil && aq.Type == q.Type && aq.Class == q.Class &&
		strings.EqualFold(aq.Name.String(), q.Name.String())
}
