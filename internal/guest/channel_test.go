//go:build linux

package guest

import (
	"context"
	"encoding/json"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/hyve-vm/hyve/internal/guest/outbox"
	"github.com/hyve-vm/hyve/internal/guestapi"
)

func TestChannel(t *testing.T) {
	host, here := net.Pipe()
	defer host.Close()
	out := outbox.New(func() time.Duration { return time.Second })
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

	out.Put(guestapi.Event{Phase: &guestapi.Phase{Name: guestapi.NewText(guestapi.PhaseInit)}}) // before any host
	out.Logf("early")
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

func describe(e guestapi.Event) string {
	b, _ := json.Marshal(e)
	return string(b)
}
