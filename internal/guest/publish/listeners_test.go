//go:build linux

package publish

import (
	"encoding/binary"
	"errors"
	"net/netip"
	"os"
	"slices"
	"syscall"
	"testing"

	"github.com/hyve-vm/hyve/internal/guest/outbox/outboxtest"
	"github.com/hyve-vm/hyve/internal/guest/process"
	"github.com/hyve-vm/hyve/internal/guestapi"
)

// diagAnswer is the kernel's about one socket.
func diagAnswer(family uint8, address string, port uint16, only6 bool) []byte {
	b := make([]byte, diagSize)
	b[0] = family
	binary.BigEndian.PutUint16(b[diagPort:], port)
	copy(b[diagAddress:], netip.MustParseAddr(address).AsSlice())
	attr := func(kind, size uint16, value ...byte) {
		b = binary.NativeEndian.AppendUint16(b, size)
		b = binary.NativeEndian.AppendUint16(b, kind)
		b = append(append(b, value...), 0, 0, 0)
	}
	if family == familyIPv6 {
		attr(8, 5, 1)
		value := byte(0)
		if only6 {
			value = 1
		}
		attr(diagSKV6Only, 5, value)
	}
	return b
}

func TestListeners(t *testing.T) {
	card := netip.MustParseAddr("192.168.127.2")
	for _, test := range []struct {
		answer []byte
		want   string // the address it is published on
		ok     bool
	}{
		{diagAnswer(familyIPv4, "0.0.0.0", 80, false), "0.0.0.0", true},
		{diagAnswer(familyIPv4, "192.168.127.2", 80, false), "0.0.0.0", true},
		{diagAnswer(familyIPv6, "::", 80, false), "", true},
		{diagAnswer(familyIPv6, "::ffff:192.168.127.2", 80, false), "0.0.0.0", true},
		{diagAnswer(familyIPv6, "::", 80, true), "::", true},
		{diagAnswer(familyIPv6, "::1", 80, false), "", false},
		{diagAnswer(familyIPv6, "::ffff:127.0.0.1", 80, false), "", false},
		{diagAnswer(familyIPv4, "127.0.0.1", 80, false), "", false},
		{diagAnswer(familyIPv4, "127.0.0.53", 80, false), "", false},
		{diagAnswer(familyIPv4, "172.17.0.1", 80, false), "", false},
		{diagAnswer(familyIPv4, "0.0.0.0", 0, false), "", false},
		{diagAnswer(1, "0.0.0.0", 80, false), "", false},
		{diagAnswer(familyIPv4, "0.0.0.0", 80, false)[:diagSize-1], "", false},
		{append(diagAnswer(familyIPv6, "::", 80, true)[:diagSize], 0xff, 0xff, diagSKV6Only, 0, 1), "", true}, // an attribute that is cut
	} {
		l, ok := parseListener("tcp", test.answer)
		var p publication
		if ok {
			p, ok = l.wanted(card)
		}
		want := publication{protocol: "tcp", hostIP: test.want, port: 80}
		if test.want == "::" {
			want.target = "[::1]:80" // by a relay
		}
		if ok != test.ok || ok && p != want {
			t.Errorf("%x: %+v, %t; want %q, %t", test.answer, p, ok, test.want, test.ok)
		}
	}
}

// A service with one socket for each family, as nginx has them, is published on both.
// What is bound to a device is published if that is the card.
func TestBoundToADevice(t *testing.T) {
	isCard := func(device uint32) bool { return device == 2 }
	for device, elsewhere := range map[uint32]bool{0: false, 2: false, 1: true, 3: true} {
		answer := diagAnswer(familyIPv4, "0.0.0.0", 67, false)
		binary.NativeEndian.PutUint32(answer[diagDevice:], device)
		if l, ok := parseListener("udp", answer); !ok || l.isElsewhere(isCard) != elsewhere {
			t.Errorf("device %d: %+v, elsewhere is %t", device, l, l.isElsewhere(isCard))
		}
	}
}

func TestTwins(t *testing.T) {
	all := []listener{
		{protocol: "tcp", address: netip.MustParseAddrPort("[::]:80"), only6: true},
		{protocol: "tcp", address: netip.MustParseAddrPort("0.0.0.0:80")},
		{protocol: "udp", address: netip.MustParseAddrPort("[::]:80"), only6: true},
		{protocol: "tcp", address: netip.MustParseAddrPort("[::]:81"), only6: true},
		{protocol: "tcp", address: netip.MustParseAddrPort("127.0.0.1:81")},
		{protocol: "tcp", address: netip.MustParseAddrPort("[::1]:82"), only6: true},
		{protocol: "tcp", address: netip.MustParseAddrPort("192.168.127.2:82")},
	}
	var got []publication
	for _, l := range withTwins(all) {
		if p, ok := l.wanted(netip.MustParseAddr("192.168.127.2")); ok {
			got = append(got, p)
		}
	}
	want := []publication{
		{protocol: "tcp", hostIP: "::", port: 80}, {protocol: "tcp", hostIP: "0.0.0.0", port: 80},
		{protocol: "udp", hostIP: "::", port: 80, target: "[::1]:80"}, {protocol: "tcp", hostIP: "::", port: 81, target: "[::1]:81"},
		{protocol: "tcp", hostIP: "0.0.0.0", port: 82},
	}
	if !slices.Equal(got, want) {
		t.Errorf("%+v, want %+v", got, want)
	}
}

func FuzzParseListener(f *testing.F) {
	f.Add(diagAnswer(familyIPv6, "::", 80, true))
	f.Fuzz(func(t *testing.T, b []byte) {
		if l, ok := parseListener("tcp", b); ok {
			l.wanted(netip.Addr{})
		}
	})
}

// What listens is published while it does, unless it is a proxy.
func TestFollow(t *testing.T) {
	out := outboxtest.New()
	p := testPorts(out)
	if _, err := p.add(publication{"tcp", "0.0.0.0", 22, "172.17.0.2:22"}, false); err != nil { // served at 4000
		t.Fatal(err)
	}
	openedPort(t, out)
	service := publication{protocol: "tcp", hostIP: "0.0.0.0", port: 8080}
	p.follow([]publication{service, {protocol: "tcp", port: 4000}, service}, nil)
	opened := openedPort(t, out)
	want, err := service.event()
	if want.ID = 2; opened != want || err != nil {
		t.Errorf("opened %+v, want %+v", opened, want)
	}
	p.Acknowledge(guestapi.PortAck{ID: 2})
	p.follow([]publication{service}, nil)
	p.follow(nil, nil)
	next := outboxtest.Next(t, out, func(e guestapi.Event) bool { return e.PortOpened != nil || e.PortClosed != nil })
	if next.PortClosed == nil || next.PortClosed.ID != 2 {
		t.Errorf("then %+v", next)
	}
	var many []publication
	for port := uint16(10000); port < 12000; port++ {
		many = append(many, publication{protocol: "tcp", port: port})
	}
	p.follow(many, nil)
	if len(p.followed) != maxFollowed {
		t.Errorf("%d are followed, want %d", len(p.followed), maxFollowed)
	}
}

// What listens on IPv6 alone is published where its relay listens, for as long as it has one,
// and not beside the proxy of a container.
func TestFollowRelays(t *testing.T) {
	out := outboxtest.New()
	p := testPorts(out)
	next := func() any {
		e := outboxtest.Next(t, out, func(e guestapi.Event) bool { return e.PortOpened != nil || e.PortClosed != nil })
		if e.PortClosed != nil {
			return *e.PortClosed
		}
		return [2]uint16{e.PortOpened.Port, e.PortOpened.GuestPort}
	}
	expect := func(want ...any) {
		t.Helper()
		for _, want := range want {
			if got := next(); got != want {
				t.Errorf("%+v, want %+v", got, want)
			}
		}
	}
	service := publication{"tcp", "::", 8080, "[::1]:8080"}
	p.follow([]publication{service}, nil) // there is no relay
	p.follow([]publication{service}, map[publication]uint16{service: 5000})
	expect([2]uint16{8080, 5000})
	p.follow([]publication{service}, map[publication]uint16{service: 5001}) // another one
	expect(guestapi.PortClosed{ID: 1}, [2]uint16{8080, 5001})
	// dockerd 28 has bound it, and now its proxy comes.
	if _, err := p.add(publication{"tcp", "::", 8080, "172.17.0.2:80"}, false); err != nil {
		t.Fatal(err)
	}
	expect(guestapi.PortClosed{ID: 2}, [2]uint16{8080, 4000})
	if left := p.unclaimed([]publication{service}); len(left) != 0 {
		t.Errorf("%+v is no proxy's", left)
	}
}

// A relay runs for each listener that needs one, no longer than that, and no more than may be.
func TestRelays(t *testing.T) {
	started := make(chan publication, 1000)
	r := &relays{running: map[publication]relay{}, logf: t.Logf, start: func(card netip.Addr, to publication) (*process.Process, uint16, error) {
		started <- to
		if to.port == 9 {
			return nil, 0, errors.New("no such program")
		}
		p, err := testReaper.Start([]string{"sleep", "100"}, &os.ProcAttr{Env: os.Environ()})
		return p, 10000 + to.port, err
	}}
	one, broken := publication{"tcp", "::", 1, "[::1]:1"}, publication{"udp", "::", 9, "[::1]:9"}
	for range 2 { // nothing is started twice
		ports := r.follow(netip.Addr{}, []publication{one, {protocol: "tcp", port: 80}, broken, one})
		if len(started) != 2 || ports[one] != 10001 || ports[broken] != 0 || !r.has("tcp", 10001) || r.has("udp", 10001) {
			t.Errorf("started %d, ports %v", len(started), ports)
		}
	}
	proxy := r.running[one].proxy
	proxy.Signal(syscall.SIGKILL, false)
	proxy.Wait()
	r.follow(netip.Addr{}, []publication{one})
	if proxy = r.running[one].proxy; len(started) != 3 || proxy.Ended() {
		t.Errorf("a relay that has ended is not started again")
	}
	if r.follow(netip.Addr{}, nil); len(r.running) != 0 {
		t.Errorf("%v run for nobody", r.running)
	}
	proxy.Wait() // it was killed
	var many []publication
	for port := range uint16(maxRelays + 10) {
		many = append(many, publication{"tcp", "::", port + 100, "x"})
	}
	if r.follow(netip.Addr{}, many); len(r.running) != maxRelays {
		t.Errorf("%d run, want %d", len(r.running), maxRelays)
	}
	r.follow(netip.Addr{}, nil)
}
