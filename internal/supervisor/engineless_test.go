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
	s := &supervisor{board: newBoard(control.Status{}), log: slog.New(slog.DiscardHandler)}
	s.session.effects = s
	as := func(p phase) {
		s.session.phase, s.session.run = p, run{engineUp: true}
		s.board.set(func(st *control.Status) { st.EngineVersion, st.Failure = "26", nil })
	}
	check := func(version, cause string) {
		t.Helper()
		st, _ := s.board.get()
		if st.EngineVersion != version || (st.Failure == nil) != (cause == "") || st.Failure != nil && !strings.Contains(st.Failure.Cause, cause) {
			t.Errorf("engine %q, failure %v; want %q, %q", st.EngineVersion, st.Failure, version, cause)
		}
	}
	ended := message{kind: engineDown}
	died := message{kind: trouble, failure: &guestapi.Failed{Phase: guestapi.NewText(guestapi.PhaseEngine), Cause: guestapi.NewProse("dockerd killed by signal 9")}}

	as(running)
	s.session.handle(died) // of an attempt before, which is heard late
	check("26", "")
	s.session.handle(ended)
	check("", "is not running")
	s.session.handle(died)
	check("", "killed by signal 9")
	if st, _ := s.board.get(); len(st.Problems) != 1 {
		t.Errorf("problems %q", st.Problems)
	}
	s.board.complaint("disk: something else")
	s.board.recovered(guestapi.PhaseEngine)
	if st, _ := s.board.get(); !slices.Equal(st.Problems, []string{"disk: something else"}) {
		t.Errorf("problems %q of an engine that has recovered", st.Problems)
	}
	as(stopping)
	s.session.handle(ended)
	check("26", "")
}
