//go:build linux

package guest

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/hyve-vm/hyve/internal/guestapi"
)

func TestChannel(t *testing.T) {
	host, here := net.Pipe()
	defer host.Close()
	out := newOutbox(func() time.Duration { return time.Second })
	requests := make(chan guestapi.Request, 10)
	repeats := make(chan bool, 10)
	c := &channel{bootID: "boot", out: out,
		handle:  func(r guestapi.Request) { requests <- r },
		greeted: func(first bool) { repeats <- first },
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	ended := make(chan error, 1)
	go func() { ended <- c.serve(ctx, here) }()

	out.put(guestapi.Event{Phase: &guestapi.Phase{Name: guestapi.NewText(guestapi.PhaseInit)}}) // before any host
	out.logf("early")
	w := guestapi.NewWriter[guestapi.Request](host)
	r := guestapi.NewReader[guestapi.Event](host)
	hello := func(version int, session uint64) guestapi.Event {
		t.Helper()
		if err := w.Write(guestapi.Request{Hello: &guestapi.Hello{Version: version, Session: session}}); err != nil {
			t.Fatal(err)
		}
		e, err := r.Read()
		if err != nil {
			t.Fatal(err)
		}
		return e
	}
	if e := hello(guestapi.Version, 7); e.Hello == nil || e.Hello.Session != 7 || e.Hello.BootID.String() != "boot" {
		t.Fatalf("the first event is %s", describe(e))
	}
	for _, want := range []string{`{"uptime":1000000000,"phase":{"name":"init"}}`, `{"uptime":1000000000,"log":{"service":"init","line":"early"}}`} {
		if e, err := r.Read(); err != nil || describe(e) != want {
			t.Errorf("then %s, %v; want %s", describe(e), err, want)
		}
	}
	if first := <-repeats; !first {
		t.Error("the first hello is taken for a later one")
	}
	host.Write([]byte("{broken\n"))
	if e, _ := r.Read(); e.Log == nil || !strings.Contains(e.Log.Line.String(), "damaged") {
		t.Errorf("after a damaged line: %s", describe(e))
	}
	w.Write(guestapi.Request{ID: 5, Clock: &guestapi.Clock{UnixNano: 1}})
	if req := <-requests; req.ID != 5 || req.Clock == nil {
		t.Errorf("the request is %+v", req)
	}
	if e := hello(guestapi.Version, 8); e.Hello == nil || e.Hello.Session != 8 {
		t.Errorf("a second hello is answered by %s", describe(e))
	}
	if first := <-repeats; first {
		t.Error("the second hello is taken for the first")
	}
	if e := hello(guestapi.Version+1, 9); e.Hello == nil || e.Hello.Version != guestapi.Version {
		t.Errorf("another version's hello is answered by %s", describe(e))
	}
	if e, _ := r.Read(); e.Failed == nil {
		t.Errorf("another version gives %s", describe(e))
	}
	host.Close()
	if err := <-ended; err == nil {
		t.Error("the end of the stream is no error")
	}
}

func TestOutboxDropsLogs(t *testing.T) {
	o := testOutbox()
	const extra = 10
	for i := range maxQueuedLogs + extra {
		o.logf("line %d", i)
	}
	o.put(guestapi.Event{Phase: &guestapi.Phase{Name: guestapi.NewText("x")}})
	if e := nextEvent(t, o, func(e guestapi.Event) bool { return e.Hello == nil }); e.Phase == nil {
		t.Errorf("a phase waits behind log lines: %s", describe(e))
	}
	lines, reported := 0, false
	for !reported || lines < maxQueuedLogs {
		e := nextEvent(t, o, func(guestapi.Event) bool { return true })
		if strings.HasPrefix(e.Log.Line.String(), "line ") {
			lines++
		} else {
			reported = e.Log.Line.String() == fmt.Sprintf("%d log lines were dropped: the host reads too slowly", extra)
		}
	}
	o.flush(time.Second) // empty: returns
	o.logf("last")
	began := time.Now()
	o.flush(20 * time.Millisecond)
	if time.Since(began) < 20*time.Millisecond {
		t.Error("flush did not wait for what is queued")
	}
}

// testPorts are ports of which docker has chosen none, and where every other port of the
// guest that is asked for is 4000.
func testPorts(out *outbox) *ports {
	p := newPorts(out)
	p.chosen = func(uint16) bool { return false }
	p.free = func(_ string, wanted uint16) (uint16, error) { return max(wanted, 4000), nil }
	return p
}

func openedPort(t *testing.T, out *outbox) guestapi.PortOpened {
	t.Helper()
	return *nextEvent(t, out, func(e guestapi.Event) bool { return e.PortOpened != nil }).PortOpened
}

func TestPorts(t *testing.T) {
	out := testOutbox()
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
	p.repeat()
	if again := openedPort(t, out); again != opened {
		t.Errorf("repeated as %+v", again)
	}
	p.acknowledge(guestapi.PortAck{ID: opened.ID + 1}) // nobody's
	p.acknowledge(guestapi.PortAck{ID: opened.ID})
	p.acknowledge(guestapi.PortAck{ID: opened.ID, Refused: "twice"})
	answer := make([]byte, 100)
	if n, err := proxy.Read(answer); err != nil || string(answer[:n]) != "ok 0.0.0.0 80\n" {
		t.Errorf("the proxy reads %q, %v", answer[:n], err)
	}
	opened.Firm = false
	p.repeat()
	if again := openedPort(t, out); again != opened {
		t.Errorf("a port that is relied on is repeated as %+v", again)
	}
	p.acknowledge(guestapi.PortAck{ID: opened.ID, Refused: "by a host that was slow"})
	if again := openedPort(t, out); again != opened {
		t.Errorf("a port that is refused late is asked for as %+v", again)
	}
	select {
	case <-published:
		t.Fatal("the port closed while its proxy lives")
	case <-time.After(10 * time.Millisecond):
	}
	proxy.Close()
	if closed := nextEvent(t, out, func(e guestapi.Event) bool { return e.PortClosed != nil }).PortClosed; closed.ID != opened.ID {
		t.Errorf("closed %+v", closed)
	}
	<-published
}

// A port that the host refuses, and a protocol that nobody serves.
func TestRefusedPort(t *testing.T) {
	out := testOutbox()
	p := testPorts(out)
	proxy, here := net.Pipe()
	defer proxy.Close()
	go p.publish(publication{"tcp", "0.0.0.0", 80, "172.17.0.2:80"}, here)
	p.acknowledge(guestapi.PortAck{ID: openedPort(t, out).ID, Refused: "bind: address already in use"})
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
	p := testPorts(testOutbox())
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

func describe(e guestapi.Event) string {
	b, _ := json.Marshal(e)
	return string(b)
}
