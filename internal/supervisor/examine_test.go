package supervisor

import (
	"context"
	"errors"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/hyve-vm/hyve/internal/control"
	"github.com/hyve-vm/hyve/internal/frozen"
	"github.com/hyve-vm/hyve/internal/guestapi"
	"github.com/hyve-vm/hyve/internal/machine"
	"github.com/hyve-vm/hyve/internal/trial"
)

// failTrial has the machines that are like one not be thawed on this host.
func failTrial(t *testing.T, m *machine.Machine) {
	t.Helper()
	verdict := trial.New(m, fakeBackend{}, "tcg", errors.New("its clock has jumped"))
	if err := errors.Join(os.MkdirAll(m.Home().Templates(), 0o700), verdict.Keep(trial.Path(m, fakeBackend{}, "tcg"))); err != nil {
		t.Fatal(err)
	}
}

// What a guest is blamed for is what no delay explains.
func TestJudge(t *testing.T) {
	// The guest took its note ten seconds ago, and was frozen for three of them.
	noted := time.Now()
	at := func(seconds float64) time.Time { return noted.Add(time.Duration(seconds * float64(time.Second))) }
	good := func() [3]look {
		said := func(asked, told, reads float64) look {
			return look{at(asked), at(told), guestapi.Examination{Monotonic: at(reads - 3).Sub(noted), UnixNano: at(reads).UnixNano()}}
		}
		looks := [3]look{said(9.5, 10, 9.9), said(10, 10.01, 10.005), said(10.21, 10.22, 10.215)}
		looks[0].Pages = 1500
		return looks
	}
	const ms = time.Millisecond
	for name, test := range map[string]struct {
		change func(looks *[3]look)
		late   time.Duration
		want   string // empty: nothing is wrong
	}{
		"nothing is wrong":           {func(*[3]look) {}, 0, ""},
		"a page has changed":         {func(l *[3]look) { l[0].Damaged = 1 }, 0, "of 1500 pages of its memory 1 have changed"},
		"nothing was compared":       {func(l *[3]look) { l[0].Pages = 0 }, 0, "only 0 pages"},
		"the kernel complains":       {func(l *[3]look) { l[2].Complaint = guestapi.NewText("BUG: soft lockup") }, 0, "its kernel complains: BUG: soft lockup"},
		"the clock stands":           {func(l *[3]look) { l[2].Monotonic = l[1].Monotonic }, 0, "does not go as the host's"},
		"it is slow":                 {func(l *[3]look) { l[2].Monotonic -= 60 * ms }, 0, "does not go as the host's"},
		"it is fast":                 {func(l *[3]look) { l[2].Monotonic += 60 * ms }, 0, "does not go as the host's"},
		"it goes back":               {func(l *[3]look) { l[2].Monotonic = l[1].Monotonic - time.Second }, 0, "does not go as the host's"},
		"an answer was on its way":   {func(l *[3]look) { l[2].Monotonic += 60 * ms; l[2].told = l[2].told.Add(60 * ms) }, 0, ""},
		"a question was on its way":  {func(l *[3]look) { l[1].Monotonic -= 60 * ms; l[1].asked = l[1].asked.Add(-60 * ms) }, 0, ""},
		"it has jumped by an hour":   {func(l *[3]look) { leap(l, time.Hour) }, 0, "its clock has jumped"},
		"it has jumped back":         {func(l *[3]look) { leap(l, -time.Minute) }, 0, "its clock has jumped"},
		"it was not frozen for long": {func(l *[3]look) { leap(l, 3*time.Second) }, 0, ""},
		"it shows another time":      {func(l *[3]look) { l[2].UnixNano += int64(5 * time.Second) }, 0, "shows another time"},
		"it is late":                 {func(l *[3]look) { l[2].UnixNano -= int64(5 * time.Second) }, 0, "shows another time"},
		"it was told late":           {func(l *[3]look) { l[2].UnixNano -= int64(5 * time.Second) }, 5 * time.Second, ""},
		"it exaggerates":             {func(l *[3]look) { leap(l, 1<<63-1) }, 0, "its clock"},
	} {
		looks := good()
		test.change(&looks)
		err := judge(looks, noted, test.late)
		if test.want == "" && err != nil || test.want != "" && (err == nil || !strings.Contains(err.Error(), test.want)) {
			t.Errorf("%s: %v, want %q", name, err, test.want)
		}
	}
}

func leap(looks *[3]look, by time.Duration) {
	for i := range looks {
		looks[i].Monotonic += by
	}
}

// The guest is asked for a note before it is frozen, and what it is afterwards; one that does
// not say what it finds is none that is well.
func TestExamine(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	g, in, out, _ := testGuest(ctx, t)
	s := &supervisor{guest: g, log: g.log}
	began := time.Now()
	asked := make(chan guestapi.Request, 10)
	silent := make(chan bool, 1)
	go func() {
		for {
			request, err := in.Read()
			if err != nil {
				return
			}
			reply := guestapi.Reply{ID: request.ID}
			if request.Examine != nil {
				reply.Examination = &guestapi.Examination{Pages: 1000, UnixNano: time.Now().UnixNano(), Monotonic: time.Since(began)}
				asked <- request
				select {
				case <-silent:
					reply.Examination = nil
				default:
				}
			}
			out.Write(guestapi.Event{Reply: &reply})
		}
	}()
	if err := s.Examine(ctx, control.ExamineRequest{}); err != nil {
		t.Fatal(err)
	}
	if request := <-asked; !request.Examine.Note {
		t.Error("it took no note")
	}
	if err := s.Examine(ctx, control.ExamineRequest{Noted: began}); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if request := <-asked; request.Examine.Note {
			t.Error("it forgot its note")
		}
	}
	silent <- true
	if err := s.Examine(ctx, control.ExamineRequest{Noted: began}); err == nil {
		t.Error("one that says nothing is well")
	}
}

// Where thaws are known to fail a machine is not suspended, and runs on; a copy of it has its
// disk alone; at a stop it shuts down; a state that is there is dropped.
func TestNotFrozenWhereThawsFail(t *testing.T) {
	s := newScene(t)
	failTrial(t, s.machine)
	err := s.Stop(t.Context(), control.StopRequest{Suspend: true})
	if err == nil || !strings.Contains(err.Error(), "its clock has jumped") || strings.Contains(err.Error(), "\n") {
		t.Errorf("suspending: %v", err)
	}
	if status, _ := s.board.get(); status.State != control.Running {
		t.Errorf("it is %s", status.State)
	}
	to := machine.Dir(t.TempDir())
	if err := s.Copy(t.Context(), control.CopyRequest{Dir: string(to)}); err != nil {
		t.Error(err)
	}
	if exists, _ := frozen.Exists(to.Frozen()); exists {
		t.Error("its copy has a state")
	}
	if err := s.Stop(t.Context(), control.StopRequest{Freeze: true}); err != nil {
		t.Error(err)
	}
	<-s.ended
	if exists, _ := frozen.Exists(s.machine.Dir().Frozen()); exists {
		t.Error("it was frozen")
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if last := s.heard[len(s.heard)-1]; last != "shutdown" {
		t.Errorf("the guest heard %q", s.heard)
	}
}
