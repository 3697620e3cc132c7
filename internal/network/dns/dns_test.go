package dns

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"
)

// A zone is a name server of the host's network: what it says to each question,
// "NAME TYPE". What is not there does not exist.
type zone struct {
	answers map[string][]dnsmessage.ResourceBody
	code    map[string]dnsmessage.RCode
	big     map[string]bool // does not fit into a datagram
	asked   atomic.Int64
}

// serve listens on UDP and TCP at addr, whose port may be 0.
func (z *zone) serve(t testing.TB, addr netip.AddrPort) netip.AddrPort {
	t.Helper()
	l, err := net.Listen("tcp", addr.String())
	if err != nil {
		t.Fatal(err)
	}
	u, err := net.ListenPacket("udp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		b := make([]byte, 4096)
		for {
			n, from, err := u.ReadFrom(b)
			if err != nil {
				return
			}
			_, _ = u.WriteTo(z.answer(t, b[:n], true), from)
		}
	})
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			for query, err := readMessage(c, 4096); err == nil; query, err = readMessage(c, 4096) {
				_ = writeMessage(c, z.answer(t, query, false))
			}
			_ = c.Close()
		}
	})
	t.Cleanup(func() { _ = l.Close(); _ = u.Close(); wg.Wait() })
	return l.Addr().(*net.TCPAddr).AddrPort()
}

func (z *zone) answer(t testing.TB, query []byte, udp bool) []byte {
	z.asked.Add(1)
	var m dnsmessage.Message
	if err := m.Unpack(query); err != nil {
		t.Errorf("the name server got garbage: %v", err)
		return nil
	}
	q := m.Questions[0]
	key := strings.ToLower(q.Name.String()) + " " + strings.TrimPrefix(q.Type.String(), "Type")
	m.Response, m.Additionals = true, nil
	bodies, known := z.answers[key]
	m.RCode = z.code[key]
	if !known && m.RCode == 0 {
		m.RCode = dnsmessage.RCodeNameError
	}
	if udp && z.big[key] {
		m.Truncated, bodies = true, nil
	}
	for _, body := range bodies {
		m.Answers = append(m.Answers, dnsmessage.Resource{
			Header: dnsmessage.ResourceHeader{Name: q.Name, Class: q.Class, TTL: 77},
			Body:   body,
		})
	}
	b, err := m.Pack()
	if err != nil {
		t.Error(err)
	}
	return b
}

func a(s string) []dnsmessage.ResourceBody {
	return []dnsmessage.ResourceBody{&dnsmessage.AResource{A: netip.MustParseAddr(s).As4()}}
}

// useServers makes a server's resolver see a resolv.conf and hosts of the
// test's own; the returned function writes either file.
func useServers(t testing.TB, r *resolver, port uint16) func(name, text string) {
	t.Helper()
	dir := t.TempDir()
	r.resolvConf, r.serverPort = filepath.Join(dir, "resolv.conf"), port
	r.patience, r.stagger = time.Second, 500*time.Millisecond
	r.hosts.path, r.system = filepath.Join(dir, "hosts"), nil
	return func(name, text string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// newServer returns a server that is reached at that address, over UDP and TCP.
func newServer(t testing.TB) (*Server, string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	u, err := net.ListenPacket("udp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	s := New(Config{Host: hostIP, Gateway: gatewayIP, Log: slog.New(slog.DiscardHandler)})
	ctx, cancel := context.WithCancel(context.Background())
	var served sync.WaitGroup
	served.Go(func() { s.ServeUDP(ctx, u) })
	served.Go(func() { s.ServeTCP(ctx, l) })
	t.Cleanup(func() { cancel(); served.Wait() })
	return s, l.Addr().String()
}

// Where the guest of these tests finds its host.
var (
	hostIP    = netip.MustParseAddr("192.168.127.254")
	gatewayIP = netip.MustParseAddr("192.168.127.1")
)

// lonely returns a resolver that knows nothing but name servers at that port.
func lonely(port uint16) *resolver {
	r := newResolver(Config{Host: hostIP, Gateway: gatewayIP})
	r.resolvConf, r.serverPort, r.hosts.path, r.system = "/nonexistent", port, "/nonexistent", nil
	return r
}

// freePort is one that nobody listens on.
func freePort(t testing.TB) uint16 {
	t.Helper()
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return uint16(l.Addr().(*net.TCPAddr).Port)
}

// clientOf is Go's own resolver, which asks that server.
func clientOf(server string) *net.Resolver {
	return &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, network, server)
	}}
}

func TestDNS(t *testing.T) {
	s, address := newServer(t)
	txt := strings.Repeat("long ", 40)
	z := &zone{
		answers: map[string][]dnsmessage.ResourceBody{
			"example.org. A":              a("192.0.2.7"),
			"example.org. AAAA":           {&dnsmessage.AAAAResource{AAAA: netip.MustParseAddr("2001:db8::7").As16()}},
			"example.org. TXT":            {&dnsmessage.TXTResource{TXT: []string{"one", "two"}}},
			"example.org. MX":             {&dnsmessage.MXResource{Pref: 5, MX: dnsmessage.MustNewName("mx.example.org.")}},
			"big.example.org. TXT":        slices.Repeat([]dnsmessage.ResourceBody{&dnsmessage.TXTResource{TXT: []string{txt}}}, 40),
			"_x._tcp.example.org. SRV":    {&dnsmessage.SRVResource{Priority: 1, Weight: 2, Port: 33, Target: dnsmessage.MustNewName("srv.example.org.")}},
			"7.2.0.192.in-addr.arpa. PTR": {&dnsmessage.PTRResource{PTR: dnsmessage.MustNewName("example.org.")}},
			"odd.example.org. HTTPS":      {&dnsmessage.UnknownResource{Type: dnsmessage.TypeHTTPS, Data: []byte{0, 1, 0}}},
			"empty.example.org. A":        {},
		},
		code: map[string]dnsmessage.RCode{"broken.example.org. A": dnsmessage.RCodeServerFailure},
		big:  map[string]bool{"big.example.org. TXT": true},
	}
	server := z.serve(t, netip.AddrPortFrom(loopback, 0))
	useServers(t, s.resolver, server.Port())("resolv.conf", "# a comment\nsearch x\nnameserver 127.0.0.1\n")
	r, ctx := clientOf(address), t.Context()

	ips, err := r.LookupNetIP(ctx, "ip", "example.org.")
	slices.SortFunc(ips, netip.Addr.Compare)
	expect(t, "addresses", ips, err, []netip.Addr{netip.MustParseAddr("192.0.2.7"), netip.MustParseAddr("2001:db8::7")})
	txts, err := r.LookupTXT(ctx, "example.org.")
	expect(t, "TXT", txts, err, []string{"onetwo"})
	txts, err = r.LookupTXT(ctx, "big.example.org.") // by way of TCP
	expect(t, "big TXT", txts, err, slices.Repeat([]string{txt}, 40))
	mx, err := r.LookupMX(ctx, "example.org.")
	expect(t, "MX", mx, err, []*net.MX{{Host: "mx.example.org.", Pref: 5}})
	_, srv, err := r.LookupSRV(ctx, "x", "tcp", "example.org.")
	expect(t, "SRV", srv, err, []*net.SRV{{Target: "srv.example.org.", Port: 33, Priority: 1, Weight: 2}})
	ptr, err := r.LookupAddr(ctx, "192.0.2.7")
	expect(t, "PTR", ptr, err, []string{"example.org."})

	var de *net.DNSError
	if _, err := r.LookupHost(ctx, "nowhere.example.org."); !errors.As(err, &de) || !de.IsNotFound {
		t.Errorf("a name that does not exist: %v, want not found", err)
	}
	start := time.Now()
	if m := query(t, address, "broken.example.org.", dnsmessage.TypeA); m.RCode != dnsmessage.RCodeServerFailure {
		t.Errorf("a failing name: %v, want server failure", m.RCode)
	}
	if d := time.Since(start); d > s.resolver.stagger/2 {
		t.Errorf("a failing name took %v", d)
	}
	if m := query(t, address, "empty.example.org.", dnsmessage.TypeA); m.RCode != 0 || len(m.Answers) != 0 {
		t.Errorf("a name without addresses: %v", m)
	}
	m := query(t, address, "odd.example.org.", dnsmessage.TypeHTTPS)
	if len(m.Answers) != 1 || m.Answers[0].Header.TTL != 77 {
		t.Errorf("HTTPS record: %v, want it as it came", m)
	}
	if m := query(t, address, "example.org.", dnsmessage.TypeAXFR); m.RCode != dnsmessage.RCodeRefused {
		t.Errorf("a zone transfer: %v, want refused", m.RCode)
	}
}

func expect[T any](t *testing.T, what string, got T, err error, want T) {
	t.Helper()
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("%s: %v, %v; want %v", what, got, err, want)
	}
}

// query asks a server over UDP and returns the answer as it is.
func query(t *testing.T, server string, name string, qtype dnsmessage.Type) dnsmessage.Message {
	t.Helper()
	b, err := pack(name, qtype)
	if err != nil {
		t.Fatal(err)
	}
	c, err := net.Dial("udp", server)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(5 * time.Second))
	if _, err := c.Write(b); err != nil {
		t.Fatal(err)
	}
	answer := make([]byte, 64<<10)
	size, err := c.Read(answer)
	if err != nil {
		t.Fatal(err)
	}
	var m dnsmessage.Message
	if err := m.Unpack(answer[:size]); err != nil {
		t.Fatal(err)
	}
	if m.ID != 0x4321 || !m.Response {
		t.Errorf("header %+v", m.Header)
	}
	return m
}

func pack(name string, qtype dnsmessage.Type) ([]byte, error) {
	n, err := dnsmessage.NewName(name)
	if err != nil {
		return nil, err
	}
	m := dnsmessage.Message{
		Header:    dnsmessage.Header{ID: 0x4321, RecursionDesired: true},
		Questions: []dnsmessage.Question{{Name: n, Type: qtype, Class: dnsmessage.ClassINET}},
	}
	return m.Pack()
}

func TestInternalNames(t *testing.T) {
	s, address := newServer(t)
	useServers(t, s.resolver, freePort(t)) // nobody there
	r, ctx := clientOf(address), t.Context()
	for name, want := range map[string]string{
		"host.docker.internal.":    hostIP.String(),
		"Host.Docker.Internal.":    hostIP.String(),
		"gateway.docker.internal.": gatewayIP.String(),
		"localhost.":               "127.0.0.1",
	} {
		m := query(t, address, name, dnsmessage.TypeA)
		if len(m.Answers) != 1 || netip.AddrFrom4(m.Answers[0].Body.(*dnsmessage.AResource).A).String() != want {
			t.Errorf("%s: %v, want %s", name, m, want)
		}
	}
	if m := query(t, address, "host.docker.internal.", dnsmessage.TypeAAAA); m.RCode != 0 || len(m.Answers) != 0 {
		t.Errorf("AAAA of the host: %v, want an empty answer", m)
	}
	if m := query(t, address, "other.docker.internal.", dnsmessage.TypeA); m.RCode != dnsmessage.RCodeNameError {
		t.Errorf("another name: %v, want not found", m)
	}
	ptr, err := r.LookupAddr(ctx, hostIP.String())
	expect(t, "PTR", ptr, err, []string{"host.docker.internal."})
}

// TestOffline expects "server failure", in time, and never "no such name", when
// the name servers are dead or there are none.
func TestOffline(t *testing.T) {
	s, address := newServer(t)
	write := useServers(t, s.resolver, freePort(t))
	s.resolver.patience, s.resolver.stagger = 300*time.Millisecond, 100*time.Millisecond
	start := time.Now()
	if m := query(t, address, "example.org.", dnsmessage.TypeA); m.RCode != dnsmessage.RCodeServerFailure {
		t.Errorf("no resolv.conf: %v, want server failure", m.RCode)
	}
	silent, err := net.ListenPacket("udp4", "127.0.0.1:0") // takes queries, says nothing
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	s.resolver.serverPort = silent.LocalAddr().(*net.UDPAddr).AddrPort().Port()
	write("resolv.conf", "nameserver 127.0.0.1\n")
	if m := query(t, address, "example.org.", dnsmessage.TypeA); m.RCode != dnsmessage.RCodeServerFailure {
		t.Errorf("a silent server: %v, want server failure", m.RCode)
	}
	if d := time.Since(start); d > 3*s.resolver.patience {
		t.Errorf("took %v", d)
	}
}

// TestLostDatagram has a server that does not get the first query.
func TestLostDatagram(t *testing.T) {
	s, address := newServer(t)
	u, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer u.Close()
	z := &zone{answers: map[string][]dnsmessage.ResourceBody{"x.example. A": a("192.0.2.1")}}
	go func() {
		b := make([]byte, 4096)
		_, _, _ = u.ReadFrom(b)
		size, from, err := u.ReadFrom(b)
		if err == nil {
			_, _ = u.WriteTo(z.answer(t, b[:size], true), from)
		}
	}()
	useServers(t, s.resolver, u.LocalAddr().(*net.UDPAddr).AddrPort().Port())("resolv.conf", "nameserver 127.0.0.1\n")
	s.resolver.stagger = 50 * time.Millisecond
	if m := query(t, address, "x.example.", dnsmessage.TypeA); len(m.Answers) != 1 {
		t.Errorf("got %v", m)
	}
}

// TestTooManyQueries has as many queries under way as there may be.
func TestTooManyQueries(t *testing.T) {
	s, address := newServer(t)
	for range maxQueries {
		s.queries <- struct{}{}
	}
	if m := query(t, address, HostName+".", dnsmessage.TypeA); m.RCode != dnsmessage.RCodeServerFailure {
		t.Errorf("over UDP: %v, want server failure", m.RCode)
	}
	ask := func() dnsmessage.RCode {
		t.Helper()
		c, err := net.Dial("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		_ = c.SetDeadline(time.Now().Add(5 * time.Second))
		q, _ := pack(HostName+".", dnsmessage.TypeA)
		if err := writeMessage(c, q); err != nil {
			t.Fatal(err)
		}
		answer, err := readMessage(c, 0xffff)
		var m dnsmessage.Message
		if err != nil || m.Unpack(answer) != nil {
			t.Fatalf("%x, %v", answer, err)
		}
		return m.RCode
	}
	if code := ask(); code != dnsmessage.RCodeServerFailure {
		t.Errorf("over TCP: %v, want server failure", code)
	}
	for range maxQueries {
		<-s.queries
	}
	if code := ask(); code != dnsmessage.RCodeSuccess {
		t.Errorf("later: %v", code)
	}
}

// TestResolvConfChanges is a host that changes its network between queries.
func TestResolvConfChanges(t *testing.T) {
	s, address := newServer(t)
	if runtime.GOOS == "darwin" {
		t.Skip("this platform has one loopback address")
	}
	office := &zone{answers: map[string][]dnsmessage.ResourceBody{"intranet.example. A": a("10.0.0.1")}}
	home := &zone{answers: map[string][]dnsmessage.ResourceBody{"intranet.example. A": a("192.0.2.1")}}
	server := office.serve(t, netip.AddrPortFrom(loopback, 0))
	home.serve(t, netip.AddrPortFrom(netip.MustParseAddr("127.0.0.2"), server.Port()))
	write := useServers(t, s.resolver, server.Port())
	r := clientOf(address)
	for _, step := range []struct{ conf, want string }{
		{"nameserver 127.0.0.1\n", "10.0.0.1"},
		{"nameserver 127.0.0.2\n", "192.0.2.1"},
		{"nameserver 127.0.0.1\n", "10.0.0.1"},
		{"nameserver 127.0.0.3\nnameserver 127.0.0.2\n", "192.0.2.1"}, // the first is dead
	} {
		write("resolv.conf", step.conf)
		got, err := r.LookupHost(t.Context(), "intranet.example.")
		expect(t, step.conf, got, err, []string{step.want})
	}
}

// TestSecondServer has a first server that fails or refuses.
func TestSecondServer(t *testing.T) {
	if runtime.GOOS == "darwin" {
		t.Skip("this platform has one loopback address")
	}
	for _, code := range []dnsmessage.RCode{dnsmessage.RCodeServerFailure, dnsmessage.RCodeRefused} {
		s, address := newServer(t)
		bad := &zone{code: map[string]dnsmessage.RCode{"x.example. A": code, "y.example. A": code}}
		good := &zone{answers: map[string][]dnsmessage.ResourceBody{"x.example. A": a("192.0.2.1")},
			code: map[string]dnsmessage.RCode{"y.example. A": code}}
		server := bad.serve(t, netip.AddrPortFrom(loopback, 0))
		good.serve(t, netip.AddrPortFrom(netip.MustParseAddr("127.0.0.2"), server.Port()))
		useServers(t, s.resolver, server.Port())("resolv.conf", "nameserver 127.0.0.1\nnameserver 127.0.0.2\n")
		start := time.Now()
		if m := query(t, address, "x.example.", dnsmessage.TypeA); len(m.Answers) != 1 {
			t.Errorf("%v: %v", code, m)
		}
		if m := query(t, address, "y.example.", dnsmessage.TypeA); m.RCode != code {
			t.Errorf("all say %v: %v", code, m)
		}
		if d := time.Since(start); d > s.resolver.stagger/2 {
			t.Errorf("%v: took %v", code, d)
		}
	}
}

// TestHostsFile expects the names in the host's file, changes to it, and the
// host's loopback as the guest sees it.
func TestHostsFile(t *testing.T) {
	s, address := newServer(t)
	z := &zone{}
	server := z.serve(t, netip.AddrPortFrom(loopback, 0))
	write := useServers(t, s.resolver, server.Port())
	write("resolv.conf", "nameserver 127.0.0.1\n")
	write("hosts", "127.0.0.1 localhost app.test # mine\n::1 localhost\n10.1.2.3 Nas.example nas\nnonsense here\n2001:db8::1 six\n")
	for name, want := range map[string]string{
		"app.test.":    hostIP.String(),
		"nas.example.": "10.1.2.3",
		"NAS.":         "10.1.2.3",
	} {
		m := query(t, address, name, dnsmessage.TypeA)
		if len(m.Answers) != 1 || netip.AddrFrom4(m.Answers[0].Body.(*dnsmessage.AResource).A).String() != want {
			t.Errorf("%s: %v, want %s", name, m, want)
		}
		if m := query(t, address, name, dnsmessage.TypeAAAA); m.RCode != 0 || len(m.Answers) != 0 {
			t.Errorf("%s AAAA: %v, want an empty answer", name, m)
		}
	}
	if m := query(t, address, "six.", dnsmessage.TypeAAAA); len(m.Answers) != 1 {
		t.Errorf("six: %v", m)
	}
	if z.asked.Load() != 0 {
		t.Errorf("the name server was asked %d times about names of the file", z.asked.Load())
	}
	write("hosts", "10.1.2.4 nas\n")
	if m := query(t, address, "nas.", dnsmessage.TypeA); m.Answers[0].Body.(*dnsmessage.AResource).A != [4]byte{10, 1, 2, 4} {
		t.Errorf("after a change: %v", m)
	}
	write("hosts", "")
	if m := query(t, address, "nas.", dnsmessage.TypeA); m.RCode != dnsmessage.RCodeNameError {
		t.Errorf("after the end: %v", m)
	}
}

func TestHostsFileIsKept(t *testing.T) {
	f := hostsFile{path: filepath.Join(t.TempDir(), "hosts")}
	if err := os.WriteFile(f.path, []byte("10.0.0.1 a\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	old := time.Now().Add(-time.Minute)
	_ = os.Chtimes(f.path, old, old)
	f.lookup("a")
	first := reflect.ValueOf(f.names).Pointer()
	f.lookup("a")
	if reflect.ValueOf(f.names).Pointer() != first {
		t.Error("an unchanged file was parsed again")
	}
}

// TestSystemLookup stands in for macOS, where the host's own resolver knows
// names that the name servers in resolv.conf do not.
func TestSystemLookup(t *testing.T) {
	s, address := newServer(t)
	z := &zone{answers: map[string][]dnsmessage.ResourceBody{"public.example. A": a("192.0.2.1")}}
	server := z.serve(t, netip.AddrPortFrom(loopback, 0))
	useServers(t, s.resolver, server.Port())("resolv.conf", "nameserver 127.0.0.1\n")
	s.resolver.system = func(_ context.Context, name string) ([]netip.Addr, error) {
		if name == "vpn.example." {
			return []netip.Addr{netip.MustParseAddr("::ffff:10.9.8.7")}, nil
		}
		return nil, &net.DNSError{Err: "no such host", IsNotFound: true}
	}
	if m := query(t, address, "vpn.example.", dnsmessage.TypeA); len(m.Answers) != 1 {
		t.Errorf("a name of the VPN: %v", m)
	}
	if m := query(t, address, "vpn.example.", dnsmessage.TypeAAAA); m.RCode != 0 || len(m.Answers) != 0 {
		t.Errorf("its AAAA: %v, want an empty answer", m)
	}
	if m := query(t, address, "public.example.", dnsmessage.TypeA); len(m.Answers) != 1 {
		t.Errorf("a name that only the name server has: %v", m)
	}
	if m := query(t, address, "none.example.", dnsmessage.TypeA); m.RCode != dnsmessage.RCodeNameError {
		t.Errorf("a name that nobody has: %v", m)
	}
}

// TestSpoofedAnswer expects answers with a wrong ID or question to be ignored.
func TestSpoofedAnswer(t *testing.T) {
	u, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer u.Close()
	z := &zone{answers: map[string][]dnsmessage.ResourceBody{"x.example. A": a("192.0.2.1"), "y.example. A": a("192.0.2.66")}}
	go func() {
		b := make([]byte, 4096)
		n, from, err := u.ReadFrom(b)
		if err != nil {
			return
		}
		wrong := z.answer(t, b[:n], true)
		binary.BigEndian.PutUint16(wrong, binary.BigEndian.Uint16(wrong)+1)
		_, _ = u.WriteTo(wrong, from)
		other, _ := pack("y.example.", dnsmessage.TypeA)
		copy(other, b[:2])
		_, _ = u.WriteTo(z.answer(t, other, true), from)
		_, _ = u.WriteTo([]byte("short"), from)
		_, _ = u.WriteTo(b[:n], from) // the query itself
		_, _ = u.WriteTo(z.answer(t, b[:n], true), from)
	}()
	q, _ := pack("x.example.", dnsmessage.TypeA)
	r := lonely(u.LocalAddr().(*net.UDPAddr).AddrPort().Port())
	r.patience, r.stagger = time.Second, time.Second
	var m dnsmessage.Message
	if err := m.Unpack(r.answer(t.Context(), q, "udp")); err != nil {
		t.Fatal(err)
	}
	if m.ID != 0x4321 || len(m.Answers) != 1 || m.Answers[0].Body.(*dnsmessage.AResource).A != [4]byte{192, 0, 2, 1} {
		t.Errorf("got %v", m)
	}
}

func TestBadQueries(t *testing.T) {
	r := lonely(freePort(t))
	r.patience = time.Second
	good, _ := pack("x.example.", dnsmessage.TypeA)
	edit := func(f func([]byte)) []byte { b := slices.Clone(good); f(b); return b }
	for _, test := range []struct {
		name  string
		query []byte
		want  int // response code, or -1 for no answer
	}{
		{"empty", nil, -1},
		{"short", good[:11], -1},
		{"an answer", edit(func(b []byte) { b[2] |= 0x80 }), -1},
		{"cut", good[:20], int(dnsmessage.RCodeFormatError)},
		{"no question", edit(func(b []byte) { b[5] = 0 }), int(dnsmessage.RCodeFormatError)},
		{"two questions", edit(func(b []byte) { b[5] = 2 }), int(dnsmessage.RCodeFormatError)},
		{"an update", edit(func(b []byte) { b[2] |= 5 << 3 }), int(dnsmessage.RCodeNotImplemented)},
		{"class CHAOS", edit(func(b []byte) { b[len(b)-1] = 3 }), int(dnsmessage.RCodeRefused)},
	} {
		got := -1
		if answer := r.answer(t.Context(), test.query, "udp"); answer != nil {
			got = int(answer[3] & 0xf)
		}
		if got != test.want {
			t.Errorf("%s: code %d, want %d", test.name, got, test.want)
		}
	}
}

func TestParseResolvConf(t *testing.T) {
	for text, want := range map[string]string{
		"":                                      "[]",
		"nameserver 1.1.1.1":                    "[1.1.1.1]",
		"nameserver\t1.1.1.1 # x\r\n":           "[1.1.1.1]",
		"#nameserver 1.1.1.1\n":                 "[]",
		"nameserver fe80::1%eth0\n":             "[fe80::1%eth0]",
		"nameserver one\nnameserver ::1\n":      "[::1]",
		strings.Repeat("nameserver ::1\n", 10):  "[::1 ::1 ::1]",
		"options timeout:1\nnameserver 9.9.9.9": "[9.9.9.9]",
	} {
		if got := fmt.Sprint(parseResolvConf(text)); got != want {
			t.Errorf("%q: %s, want %s", text, got, want)
		}
	}
}

func FuzzAnswer(f *testing.F) {
	for _, name := range []string{"host.docker.internal.", "x.example.", "localhost."} {
		for _, qtype := range []dnsmessage.Type{dnsmessage.TypeA, dnsmessage.TypeAAAA, dnsmessage.TypePTR, typeIXFR} {
			b, err := pack(name, qtype)
			if err != nil {
				f.Fatal(err)
			}
			f.Add(b)
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel() // no name server
	f.Fuzz(func(t *testing.T, query []byte) {
		r := lonely(Port)
		for _, answer := range [][]byte{r.answer(ctx, query, "udp"), serverFailure(query)} {
			if answer == nil {
				continue
			}
			var m dnsmessage.Message
			if err := m.Unpack(answer); err != nil {
				t.Fatalf("the answer is garbage: %v", err)
			}
			if !m.Response || m.ID != binary.BigEndian.Uint16(query) {
				t.Fatalf("not an answer to this query: %+v", m.Header)
			}
		}
	})
}

func FuzzAnswers(f *testing.F) {
	good, _ := pack("x.example.", dnsmessage.TypeA)
	q := dnsmessage.Question{Name: dnsmessage.MustNewName("x.example."), Type: dnsmessage.TypeA, Class: dnsmessage.ClassINET}
	f.Add((&zone{answers: map[string][]dnsmessage.ResourceBody{"x.example. A": a("192.0.2.1")}}).answer(f, good, true))
	f.Fuzz(func(t *testing.T, b []byte) {
		if answers(b, good, q) {
			gaveUp(b)
		}
	})
}

func FuzzParseFiles(f *testing.F) {
	f.Add("127.0.0.1 a b # c\nnameserver 1.1.1.1\n")
	f.Fuzz(func(t *testing.T, text string) {
		if got := parseResolvConf(text); len(got) > maxServers {
			t.Fatalf("%d servers", len(got))
		}
		for name, addrs := range parseHosts(text) {
			if name != strings.ToLower(name) || len(addrs) == 0 {
				t.Fatalf("%q: %v", name, addrs)
			}
		}
	})
}
