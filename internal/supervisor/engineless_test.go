package supervisor

import (
	"log/slog"
	"slices"
	"strings"
	"testing"

	"github.com/hyve-vm/hyve/internal/control"
	"github.com/hyve-vm/hyve/internal/guestapi"
)

// A machine whose engine has ended is not said to have one, and the cause follows when it
// is known. One that is still starting has other words for it.
func TestEngineEnded(t *testing.T) {
	g := &guest{board: newBoard(control.Status{}), log: slog.New(slog.DiscardHandler)}
	as := func(state control.State) {
		g.engineUp.Store(true)
		g.board.set(func(s *control.Status) { s.State, s.EngineVersion, s.Failure = state, "26", nil })
	}
	check := func(version, cause string) {
		t.Helper()
		s, _ := g.board.get()
		if s.EngineVersion != version || (s.Failure == nil) != (cause == "") || s.Failure != nil && !strings.Contains(s.Failure.Cause, cause) {
			t.Errorf("engine %q, failure %v; want %q, %q", s.EngineVersion, s.Failure, version, cause)
		}
	}
	ended := guestapi.Event{EngineEnded: &guestapi.EngineEnded{}}
	died := guestapi.Event{Failed: &guestapi.Failed{Phase: guestapi.NewText(guestapi.PhaseEngine), Cause: guestapi.NewProse("dockerd killed by signal 9")}}

	as(control.Running)
	g.handle(died) // of an attempt before, which is heard late
	check("26", "")
	g.handle(ended)
	check("", "is not running")
	g.handle(died)
	check("", "killed by signal 9")
	if s, _ := g.board.get(); len(s.Problems) != 1 {
		t.Errorf("problems %q", s.Problems)
	}
	g.board.complaint("disk: something else")
	g.board.recovered(guestapi.PhaseEngine)
	if s, _ := g.board.get(); !slices.Equal(s.Problems, []string{"disk: something else"}) {
		t.Errorf("problems %q of an engine that has recovered", s.Problems)
	}
	as(control.Stopping)
	g.handle(ended)
	check("26", "")
}
