package supervisor

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hyve-vm/hyve/internal/control"
	"github.com/hyve-vm/hyve/internal/frozen"
	"github.com/hyve-vm/hyve/internal/guestapi"
	"github.com/hyve-vm/hyve/internal/hypervisor"
	"github.com/hyve-vm/hyve/internal/machine"
)

var roomyHost = machine.Host{CPUs: 8, Memory: 32 << 30, Disk: 1 << 40}

// A start takes what waited for it, and a frozen state that does not fit any more goes; but
// what runs in a suspended machine goes on with what it had.
func TestTakeNext(t *testing.T) {
	for name, test := range map[string]struct{ frozen, suspended, dropped, taken bool }{
		"shut down": {taken: true},
		"frozen":    {frozen: true, dropped: true, taken: true},
		"suspended": {frozen: true, suspended: true},
	} {
		t.Run(name, func(t *testing.T) {
			m := testMachine(t)
			if err := os.WriteFile(m.Dir().Disk(), nil, 0o600); err != nil {
				t.Fatal(err)
			}
			if test.frozen {
				draft, err := frozen.New(m.Dir().Frozen(), 1<<20)
				if err != nil {
					t.Fatal(err)
				}
				draft.Suspended = test.suspended
				if err := errors.Join(os.WriteFile(draft.Devices(), nil, 0o600), draft.Commit("shape", m.Dir().Disk())); err != nil {
					t.Fatal(err)
				}
			}
			if dropped, err := takeNext(m); dropped || err != nil {
				t.Fatalf("with nothing to take: %t, %v", dropped, err)
			}
			cpus := 2
			if _, err := m.Set(machine.Settings{CPUs: &cpus}, roomyHost); err != nil {
				t.Fatal(err)
			}
			dropped, err := takeNext(m)
			if err != nil || dropped != test.dropped || (m.CPUs == 2) != test.taken {
				t.Errorf("dropped %t, has %d CPUs, %v", dropped, m.CPUs, err)
			}
			if exists, _ := frozen.Exists(m.Dir().Frozen()); exists != test.suspended {
				t.Errorf("there is a frozen state: %t", exists)
			}
		})
	}
}

// A suspended machine whose accelerator or processor is missing is kept and not started; one
// that is stopped boots.
func TestKeepSuspended(t *testing.T) {
	for name, test := range map[string]struct {
		accelerator, processor string
		suspended              bool
		failed                 bool   // a thaw was tried, in vain
		says, hint             string // where it is kept
	}{
		"suspended, and it is missing":            {"kvm", "", true, false, "kvm, which does not work now: /dev/kvm does not exist", "load it"},
		"suspended, and it is there":              {"tcg", "small", true, false, "", ""},
		"suspended, and the processor is another": {"tcg", "large", true, false, `of "large", and here is "small"`, "that processor"},
		"suspended, and thaws fail":               {"tcg", "small", true, true, "its clock has jumped", "hyve image build --freeze"},
		"stopped, and it is missing":              {"kvm", "", false, false, "", ""},
		"stopped, and the processor is another":   {"tcg", "large", false, false, "", ""},
		"stopped, and thaws fail":                 {"tcg", "small", false, true, "", ""},
	} {
		t.Run(name, func(t *testing.T) {
			m := testMachine(t)
			if err := os.WriteFile(m.Dir().Disk(), nil, 0o600); err != nil {
				t.Fatal(err)
			}
			draft, err := frozen.New(m.Dir().Frozen(), 1<<20)
			if err != nil {
				t.Fatal(err)
			}
			draft.Suspended, draft.Accelerator, draft.Processor = test.suspended, test.accelerator, test.processor
			if err := errors.Join(os.WriteFile(draft.Devices(), nil, 0o600), draft.Commit("shape", m.Dir().Disk())); err != nil {
				t.Fatal(err)
			}
			s := &supervisor{machine: m, resources: resources{hypervisor: fakeBackend{}, identity: &identity{}, accel: hypervisor.Verdict{
				Name: "tcg", Reason: "/dev/kvm does not exist", Hint: "load it", Capabilities: hypervisor.Capabilities{Processor: "small"}}}}
			s.resources.current.Store(m)
			if test.failed {
				failTrial(t, m)
			}
			err = s.keepSuspended()
			if (err != nil) != (test.says != "") {
				t.Fatal(err)
			}
			if exists, _ := frozen.Exists(m.Dir().Frozen()); !exists {
				t.Error("its state is gone")
			}
			var kept *suspendedError
			if err != nil && (!errors.As(err, &kept) || !strings.Contains(err.Error(), test.says) ||
				!strings.Contains(kept.Hint(), test.hint) || !strings.Contains(kept.Hint(), "start --cold "+m.Name)) {
				t.Errorf("%v", err)
			}
		})
	}
}

// The guest hears of new settings that its engine can read, once, and of no others.
func TestTellSettings(t *testing.T) {
	m := testMachine(t)
	id, err := openIdentity(m)
	if err != nil {
		t.Fatal(err)
	}
	g, in, out, _ := testGuest(t.Context(), t)
	s := &supervisor{machine: m, guest: g, log: slog.New(slog.DiscardHandler), resources: resources{identity: id}, idle: newIdle(0)}
	if _, err := id.guestIdentity(); err != nil { // it was told so when it came up
		t.Fatal(err)
	}
	labels, cpus, idle := []string{"a=b"}, 2, "1h"
	other, err := m.Home().Load(m.Name)
	if err != nil {
		t.Fatal(err)
	}
	set := func(settings machine.Settings) {
		t.Helper()
		if _, err := other.Set(settings, roomyHost); err != nil {
			t.Fatal(err)
		}
		if err := s.reread(); err != nil {
			t.Fatal(err)
		}
	}
	silent, cancel := context.WithCancel(t.Context())
	cancel()
	set(machine.Settings{CPUs: &cpus, Idle: &idle})
	if err := s.tellSettings(silent); err != nil || s.idle.after == 0 {
		t.Errorf("it was told of what is not its business: %v", err)
	}
	if s.resources.current.Load().CPUs != 1 {
		t.Error("a machine that runs has other hardware")
	}
	set(machine.Settings{Labels: &labels})
	told := make(chan *guestapi.Identity, 1)
	go func() {
		request, err := in.Read()
		if err != nil {
			return
		}
		told <- request.Identity
		out.Write(guestapi.Event{Reply: &guestapi.Reply{ID: request.ID}})
	}()
	if err := s.tellSettings(t.Context()); err != nil {
		t.Fatal(err)
	}
	if identity := <-told; identity == nil || len(identity.Labels) != 1 {
		t.Errorf("it was told %+v", identity)
	}
	if err := s.tellSettings(silent); err != nil {
		t.Errorf("it was told twice: %v", err)
	}
}

// What was set while a machine started is there when it is said to be up.
func TestSettingsBeforeUp(t *testing.T) {
	m := testMachine(t)
	id, err := openIdentity(m)
	if err != nil {
		t.Fatal(err)
	}
	g, in, out, heard := testGuest(t.Context(), t)
	s := &supervisor{machine: m, guest: g, inbox: g.inbox, log: slog.New(slog.DiscardHandler), resources: resources{identity: id}, idle: newIdle(0)}
	if err := m.Dir().MakeRunDir(); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("unix", m.Dir().DockerSocket())
	if err != nil {
		t.Fatal(err)
	}
	server := http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.Header().Set("Server", "Docker/1.2.3 (linux)") })}
	go server.Serve(l)
	defer server.Close()
	if _, err := id.guestIdentity(); err != nil { // it was told so when it came up
		t.Fatal(err)
	}
	other, err := m.Home().Load(m.Name)
	if err != nil {
		t.Fatal(err)
	}
	labels := []string{"a=b"}
	if _, err := other.Set(machine.Settings{Labels: &labels}, roomyHost); err != nil {
		t.Fatal(err)
	}
	if err := s.reread(); err != nil {
		t.Fatal(err)
	}
	go s.reachEngine(t.Context(), nil)
	request := read(t, in)
	if request.Identity == nil || len(request.Identity.Labels) != 1 || len(heard) > 0 {
		t.Errorf("it is told %+v, and %d messages came before", request, len(heard))
	}
	out.Write(guestapi.Event{Reply: &guestapi.Reply{ID: request.ID}})
	if kind := <-heard; kind != engineIsUp {
		t.Errorf("message %d comes", kind)
	}
}

// A machine that cannot be told now is told when it is up: that is no error.
func TestReloadLater(t *testing.T) {
	m := testMachine(t)
	id, err := openIdentity(m)
	if err != nil {
		t.Fatal(err)
	}
	s := &supervisor{machine: m, board: newBoard(control.Status{}), log: slog.New(slog.DiscardHandler), resources: resources{identity: id}, idle: newIdle(0), inbox: newMailbox()}
	if err := s.Reload(t.Context()); err != nil { // before it is prepared
		t.Error(err)
	}
	s.board.set(func(st *control.Status) { st.Accelerator = "tcg" })
	for _, p := range []phase{comingUp, asleep, rousing, stopping} {
		s.session = session{effects: s, phase: p}
		handled := make(chan bool)
		go func() { s.session.handle(<-s.inbox.messages); close(handled) }()
		if err := s.Reload(t.Context()); err != nil {
			t.Errorf("%s: %v", p, err)
		}
		<-handled
	}
	close(s.inbox.over)
	if err := s.Reload(t.Context()); err != nil {
		t.Error(err)
	}
}

// A guest that never says that it has its new certificates does not keep the machine from
// being stopped.
func TestSettlingEnds(t *testing.T) {
	id, err := openIdentity(testMachine(t))
	if err != nil {
		t.Fatal(err)
	}
	id.around.get()
	synctest.Test(t, func(t *testing.T) {
		host, end := net.Pipe()
		defer end.Close()
		go io.Copy(io.Discard, end)
		g := &guest{log: slog.New(slog.DiscardHandler), out: guestapi.NewWriter[guestapi.Request](host), replies: map[uint64]chan guestapi.Reply{}}
		s := &supervisor{guest: g, log: g.log, inbox: newMailbox(), resources: resources{identity: id}}
		defer close(s.inbox.over)
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		go s.settle(task{ctx: ctx, cause: message{anew: true, answer: make(chan error, 1)}})
		select {
		case m := <-s.inbox.messages:
			if m.kind != finished || !errors.Is(m.err, context.DeadlineExceeded) {
				t.Errorf("it ends with %v", m.err)
			}
		case <-time.After(2 * settingsPatience):
			t.Error("it waits for ever")
		}
	})
}
