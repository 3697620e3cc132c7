//go:build linux

package publish

import (
	"net"
	"strings"
	"testing"
	"time"

	"github.com/hyve-vm/hyve/internal/guest/outbox"
	"github.com/hyve-vm/hyve/internal/guest/outbox/outboxtest"
	"github.com/hyve-vm/hyve/internal/guestapi"
)

// testPorts are ports of which docker has chosen none, and where every other port of the
// guest that is asked for is 4000.
func testPorts(out *outbox.Outbox) *Ports {
	p := NewPorts(out)
	p.chosen = func(uint16) bool { return false }
	p.free = func(_ string, wanted uint16) (uint16, error) { return max(wanted, 4000), nil }
	return p
}

func openedPort(t *testing.T, out *outbox.Outbox) guestapi.PortOpened {
	t.Helper()
	return *outboxtest.Next(t, out, func(e guestapi.Event) bool { return e.PortOpened != nil }).PortOpened
}

func TestPorts(t *testing.T) {
	out := outboxtest.New()
	p := testPorts(out)
	proxy, here := net.Pipe()
	published := make(chan struct{})
	go func() { p.publish(publication{"tcp", "0.0.0.0", 80, "172.17.0.2:80"}, here); close(published) }()
	opened := openedPort(t, out)
	any4, err := guestapi.ParseAddress("0.0.0.0")
	if err != nil {
		t.Fatal(err)
	}
	if want := (guestapi.PortOpened{ID: 1, Protocol: guestapi.NewText("tcp"), HostIP: any4, Port: 80, Firm: true}); opened != want {
		t.Errorf("opened %+v, want %+v", opened, want)
	}
	p.Repeat()
	if again := openedPort(t, out); again != opened {
		t.Errorf("repeated as %+v", again)
	}
	p.Acknowledge(guestapi.PortAck{ID: opened.ID + 1}) // nobody's
	p.Acknowledge(guestapi.PortAck{ID: opened.ID})
	p.Acknowledge(guestapi.PortAck{ID: opened.ID, Refused: "twice"})
	answer := make([]byte, 100)
	if n, err := proxy.Read(answer); err != nil || string(answer[:n]) != "ok 0.0.0.0 80\n" {
		t.Errorf("the proxy reads %q, %v", answer[:n], err)
	}
	opened.Firm = false
	p.Repeat()
	if again := openedPort(t, out); again != opened {
		t.Errorf("a port that is relied on is repeated as %+v", again)
	}
	p.Acknowledge(guestapi.PortAck{ID: opened.ID, Refused: "by a host that was slow"})
	if again := openedPort(t, out); again != opened {
		t.Errorf("a port that is refused late is asked for as %+v", again)
	}
	select {
	case <-published:
		t.Fatal("the port closed while its proxy lives")
	case <-time.After(10 * time.Millisecond):
	}
	proxy.Close()
	if closed := outboxtest.Next(t, out, func(e guestapi.Event) bool { return e.PortClosed != nil }).PortClosed; closed.ID != opened.ID {
		t.Errorf("closed %+v", closed)
	}
	<-published
}

// A port that the host refuses, and a protocol that nobody serves.
func TestRefusedPort(t *testing.T) {
	out := outboxtest.New()
	p := testPorts(out)
	proxy, here := net.Pipe()
	defer proxy.Close()
	go p.publish(publication{"tcp", "0.0.0.0", 80, "172.17.0.2:80"}, here)
	p.Acknowledge(guestapi.PortAck{ID: openedPort(t, out).ID, Refused: "bind: address already in use"})
	answer := make([]byte, 100)
	if n, err := proxy.Read(answer); err != nil || string(answer[:n]) != "refused bind: address already in use\n" {
		t.Errorf("the proxy reads %q, %v", answer[:n], err)
	}
	go p.publish(publication{"sctp", "0.0.0.0", 80, "172.17.0.2:80"}, here)
	if n, err := proxy.Read(answer); err != nil || !strings.HasPrefix(string(answer[:n]), "refused protocol not supported") {
		t.Errorf("for sctp the proxy reads %q, %v", answer[:n], err)
	}
}

// Where in the guest a port is served.
func TestPortInGuest(t *testing.T) {
	p := testPorts(outboxtest.New())
	for _, test := range []struct {
		publication
		want grant
	}{
		{publication{"tcp", "0.0.0.0", 8080, "a:80"}, grant{"0.0.0.0", 8080}},
		{publication{"tcp", "::", 8080, "a:80"}, grant{"::", 8080}},
		{publication{"udp", "::", 8080, "a:80"}, grant{"0.0.0.0", 4000}},
		{publication{"tcp", "::", 8080, "b:80"}, grant{"0.0.0.0", 4000}},
		{publication{"tcp", "::", 8081, "a:80"}, grant{"0.0.0.0", 4000}},
		{publication{"tcp", "::1", 8080, "a:80"}, grant{"0.0.0.0", 4000}},
		{publication{"tcp", "127.0.0.1", 8082, "a:80"}, grant{"0.0.0.0", 8082}},
		{publication{"tcp", "0.0.0.0", 22, "a:22"}, grant{"0.0.0.0", 4000}},
		{publication{"tcp", "::", 22, "a:22"}, grant{"::", 4000}},
		{publication{"tcp", "127.0.0.1", 2376, "a:22"}, grant{"0.0.0.0", 4000}},
		{publication{"udp", "0.0.0.0", 22, "a:22"}, grant{"0.0.0.0", 22}},
	} {
		if o, err := p.add(test.publication, false); err != nil || o.grant != test.want {
			t.Errorf("%+v: %v, %v", test.publication, o.grant, err)
		}
	}
}
