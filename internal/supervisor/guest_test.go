package supervisor

import (
	"context"
	"log/slog"
	"net"
	"testing"
	"time"

	"github.com/hyve-vm/hyve/internal/control"
	"github.com/hyve-vm/hyve/internal/guestapi"
	"github.com/hyve-vm/hyve/internal/network"
)

// testGuest is a guest that was thawed, and its end of the conversation, which ends with
// ctx.
func testGuest(ctx context.Context, t *testing.T) (g *guest, in *guestapi.Reader[guestapi.Request], out *guestapi.Writer[guestapi.Event], heard <-chan kind) {
	t.Helper()
	host, end := net.Pipe()
	t.Cleanup(func() { end.Close() })
	end.SetDeadline(time.Now().Add(time.Minute)) // of the whole test
	g = &guest{board: newBoard(control.Status{}), log: slog.New(slog.DiscardHandler), lastID: openingID,
		replies: map[uint64]chan guestapi.Reply{}, greeted: make(chan struct{}), inbox: newMailbox()}
	told := make(chan kind, 100)
	go func() {
		for {
			select {
			case m := <-g.inbox.messages:
				if m.kind != warm {
					told <- m.kind
				}
			case <-t.Context().Done():
				return
			}
		}
	}()
	go g.converse(ctx, host, true, func() (guestapi.Request, error) {
		return guestapi.Request{Identity: &guestapi.Identity{}}, nil
	})
	in = guestapi.NewReader[guestapi.Request](end)
	out = guestapi.NewWriter[guestapi.Event](end)
	hello := read(t, in).Hello
	if hello == nil {
		t.Fatal("the host does not greet")
	}
	if read(t, in).Identity == nil {
		t.Fatal("the guest is not told who it is")
	}
	say(t, out, guestapi.Event{Uptime: time.Hour, Hello: &guestapi.GuestHello{Version: guestapi.Version, Session: hello.Session}})
	if read(t, in).Clock == nil {
		t.Fatal("the guest is not told the time once it listens")
	}
	return g, in, out, told
}

var identified = guestapi.NewText(guestapi.PhaseIdentity)

func read(t *testing.T, in *guestapi.Reader[guestapi.Request]) guestapi.Request {
	t.Helper()
	request, err := in.Read()
	if err != nil {
		t.Fatal(err)
	}
	return request
}

func say(t *testing.T, out *guestapi.Writer[guestapi.Event], event guestapi.Event) {
	t.Helper()
	if err := out.Write(event); err != nil {
		t.Fatal(err)
	}
}

// A guest that was thawed has come up when it is its machine, not before, and is of use
// when what is to run in it does; a step of it has ended when its clock says so.
func TestThawedGuest(t *testing.T) {
	g, _, out, heard := testGuest(t.Context(), t)
	say(t, out, guestapi.Event{EngineReady: &guestapi.EngineReady{}}) // as somebody else
	said := time.Now()
	say(t, out, guestapi.Event{Uptime: time.Hour - time.Minute, Phase: &guestapi.Phase{Name: identified}})
	if kind := <-heard; kind != cameUp {
		t.Errorf("it knows who it is: %d", kind)
	}
	say(t, out, guestapi.Event{Reply: &guestapi.Reply{ID: openingID}})
	if kind := <-heard; kind != engineUp {
		t.Errorf("its engine is up: %d", kind)
	}
	status, _ := g.board.get()
	if at := g.board.start().Add(status.Timing[0].At).Sub(said); at < -70*time.Second || at > -50*time.Second {
		t.Errorf("the step ended after %v", at)
	}
	say(t, out, guestapi.Event{Uptime: 2 * time.Hour, Phase: &guestapi.Phase{Name: identified}})
	<-heard
	if status, _ = g.board.get(); g.board.start().Add(status.Timing[1].At).After(time.Now()) {
		t.Error("a step ended in the future")
	}
}

// One that cannot be its machine has not come up.
func TestThawedGuestWithoutName(t *testing.T) {
	_, _, out, heard := testGuest(t.Context(), t)
	say(t, out, guestapi.Event{Reply: &guestapi.Reply{ID: openingID, Error: guestapi.NewProse("no")}})
	if kind := <-heard; kind != unfit {
		t.Errorf("it is not this machine: %d", kind)
	}
}

// Nobody speaks to a guest that is being frozen.
func TestQuiet(t *testing.T) {
	g, in, out, _ := testGuest(t.Context(), t)
	say(t, out, guestapi.Event{Phase: &guestapi.Phase{Name: identified}}) // the greeting is over
	if err := g.quiesce(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := g.send(guestapi.Request{Clock: &guestapi.Clock{}}); err == nil {
		t.Error("the host speaks")
	}
	g.resume()
	go g.send(guestapi.Request{Unfreeze: &guestapi.Unfreeze{}})
	if read(t, in).Unfreeze == nil {
		t.Error("the host says something else")
	}
}

// A port that is opened while the guest is being frozen is answered when that is over, and
// so is what else is said only once.
func TestSaidWhileFrozen(t *testing.T) {
	g, in, out, _ := testGuest(t.Context(), t)
	n, err := network.New(network.Config{Log: g.log})
	if err != nil {
		t.Fatal(err)
	}
	defer n.Close()
	g.ports = &ports{network: n, board: g.board, log: g.log}
	say(t, out, guestapi.Event{Phase: &guestapi.Phase{Name: identified}}) // the greeting is over
	if err := g.quiesce(t.Context()); err != nil {
		t.Fatal(err)
	}
	const openings = 2
	for id := range uint64(openings) {
		say(t, out, guestapi.Event{PortOpened: &guestapi.PortOpened{ID: id + 1, Protocol: guestapi.NewText("none"), Firm: true}})
	}
	say(t, out, guestapi.Event{Phase: &guestapi.Phase{Name: identified}})
	for status, changed := g.board.get(); len(status.Timing) < 2; status, changed = g.board.get() { // it has been heard
		<-changed
	}
	if err := g.send(guestapi.Request{Identity: &guestapi.Identity{Name: "new"}}); err != nil {
		t.Error(err)
	}
	if err := g.send(guestapi.Request{Clock: &guestapi.Clock{}}); err == nil {
		t.Error("the time of then is kept")
	}
	resumed := make(chan struct{})
	go func() { defer close(resumed); g.resume() }()
	for id := range uint64(openings) {
		if ack := read(t, in).PortAck; ack == nil || ack.ID != id+1 {
			t.Errorf("the answer for port %d is %+v", id+1, ack)
		}
	}
	if identity := read(t, in).Identity; identity == nil || identity.Name != "new" {
		t.Errorf("the guest is told %+v", identity)
	}
	<-resumed
	if err := g.quiesce(t.Context()); err != nil {
		t.Fatal(err)
	}
	for range maxUnsaid {
		g.send(guestapi.Request{PortAck: &guestapi.PortAck{}})
	}
	if err := g.send(guestapi.Request{PortAck: &guestapi.PortAck{}}); err == nil || len(g.unsaid) > maxUnsaid {
		t.Error("what is kept has no bound")
	}
}

// Who waits for a reply hears that the VM has ended.
func TestUnansweredRequest(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	g, in, out, _ := testGuest(ctx, t)
	say(t, out, guestapi.Event{Phase: &guestapi.Phase{Name: identified}}) // the greeting is over
	asked := make(chan error)
	go func() { asked <- g.ask(t.Context(), guestapi.Request{Freeze: &guestapi.Freeze{}}) }()
	if read(t, in).Freeze == nil {
		t.Error("the host says something else")
	}
	cancel()
	if err := <-asked; err == nil {
		t.Error("a reply came")
	}
	if g.isConnected() {
		t.Error("the guest is connected")
	}
}

// A connection that was made beforehand is the first client's, or nobody's.
func TestWarmConn(t *testing.T) {
	var r warmConn
	dialled := 0
	dial := func(context.Context) (net.Conn, error) {
		dialled++
		ours, _ := net.Pipe()
		return ours, nil
	}
	r.hold(t.Context(), dial)
	r.hold(t.Context(), dial)
	if first, second := r.take(), r.take(); first == nil || second != nil || dialled != 1 {
		t.Errorf("got %v and %v of %d", first, second, dialled)
	}
	r.hold(t.Context(), dial)
	kept := r.conn
	r.forget()
	if _, err := kept.Write(nil); err == nil || r.take() != nil {
		t.Error("it is still there")
	}
	r.forget()
	r.hold(t.Context(), func(context.Context) (net.Conn, error) { return nil, net.ErrClosed })
	if r.take() != nil {
		t.Error("a failure is a connection")
	}
}

// Whoever has to wait wakes the machine, also if it falls asleep just then.
func TestGate(t *testing.T) {
	knocked := make(chan bool, 1)
	g := gate{onWait: func() { knocked <- true }}
	passed := make(chan error)
	go func() { passed <- g.wait(t.Context()) }()
	<-knocked
	g.open()
	if err := <-passed; err != nil {
		t.Error(err)
	}
	if err := g.wait(t.Context()); err != nil || len(knocked) > 0 {
		t.Errorf("through an open gate: %v", err)
	}
	g.shut()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := g.wait(ctx); err != context.Canceled || len(knocked) == 0 {
		t.Errorf("through a shut one: %v", err)
	}
}

// A guest that is about to be killed is asked to write to its disk, and waited for no
// longer than a second, whatever it is stuck in.
func TestSyncBeforeKill(t *testing.T) {
	for name, test := range map[string]struct {
		answers, listens bool
		ended            bool
		least, most      time.Duration
	}{
		"one that answers":          {answers: true, listens: true, most: syncPatience / 2},
		"one that is silent":        {listens: true, least: syncPatience, most: 2 * syncPatience},
		"one that does not listen":  {least: syncPatience, most: 2 * syncPatience},
		"one that ends meanwhile":   {listens: true, ended: true, most: syncPatience / 2},
		"one that has ended before": {ended: true, most: syncPatience / 2},
	} {
		t.Run(name, func(t *testing.T) {
			g, in, out, _ := testGuest(t.Context(), t)
			s := &supervisor{guest: g, log: slog.New(slog.DiscardHandler)}
			asked := make(chan struct{})
			ended := make(chan struct{})
			go func() {
				if test.listens {
					request, err := in.Read()
					if err == nil && request.Sync != nil {
						close(asked)
					}
					if test.answers {
						out.Write(guestapi.Event{Reply: &guestapi.Reply{ID: request.ID}})
					}
				}
				if test.ended {
					close(ended)
				}
			}()
			began := time.Now()
			s.syncGuest(ended)
			if took := time.Since(began); took < test.least || took > test.most {
				t.Errorf("it took %v", took)
			}
			if test.listens {
				select {
				case <-asked:
				default:
					t.Error("the guest was not asked")
				}
			}
		})
	}
}
