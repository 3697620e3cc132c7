package guest

import (
	"encoding/binary"
	"net/netip"
	"slices"
	"testing"

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
		{diagAnswer(familyIPv6, "::", 80, true), "", false},
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
		if ok != test.ok || ok && (p != publication{protocol: "tcp", hostIP: test.want, port: 80}) {
			t.Errorf("%x: %+v, %t; want %q, %t", test.answer, p, ok, test.want, test.ok)
		}
	}
}

// A service with one socket for each family, as nginx has them, is published on both.
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
	want := []publication{{protocol: "tcp", hostIP: "::", port: 80}, {protocol: "tcp", hostIP: "0.0.0.0", port: 80}, {protocol: "tcp", hostIP: "0.0.0.0", port: 82}}
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
	out := testOutbox()
	p := testPorts(out)
	if _, err := p.add(publication{"tcp", "0.0.0.0", 22, "172.17.0.2:22"}, false); err != nil { // served at 4000
		t.Fatal(err)
	}
	openedPort(t, out)
	service := publication{protocol: "tcp", hostIP: "0.0.0.0", port: 8080}
	p.follow([]publication{service, {protocol: "tcp", port: 4000}, service})
	opened := openedPort(t, out)
	want, err := service.event()
	if want.ID = 2; opened != want || err != nil {
		t.Errorf("opened %+v, want %+v", opened, want)
	}
	p.acknowledge(guestapi.PortAck{ID: 2})
	p.follow([]publication{service})
	p.follow(nil)
	next := nextEvent(t, out, func(e guestapi.Event) bool { return e.PortOpened != nil || e.PortClosed != nil })
	if next.PortClosed == nil || next.PortClosed.ID != 2 {
		t.Errorf("then %s", describe(next))
	}
	var many []publication
	for port := uint16(10000); port < 12000; port++ {
		many = append(many, publication{protocol: "tcp", port: port})
	}
	p.follow(many)
	if len(p.followed) != maxFollowed {
		t.Errorf("%d are followed, want %d", len(p.followed), maxFollowed)
	}
}
