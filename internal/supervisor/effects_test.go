package supervisor

import (
	"fmt"
	"log/slog"
	"net"
	"testing"

	"github.com/hyve-vm/hyve/internal/control"
)

// What is published is the phase that is, after every event in every phase.
func TestPublish(t *testing.T) {
	kept, _ := net.Pipe()
	s := &supervisor{machine: testMachine(t), board: newBoard(control.Status{}), log: slog.New(slog.DiscardHandler), inbox: newMailbox(), idle: newIdle(0)}
	s.warmConn.conn = kept // it is made already
	defer close(s.inbox.over)
	for was := range over {
		for e := range kind(events) {
			now, _ := next(was, e)
			if now == over { // which is published with the reason
				continue
			}
			s.board.set(func(st *control.Status) {
				*st = control.Status{State: was.state(), Activity: "what it was", Asleep: was == asleep}
			})
			s.publish(was, now, message{kind: e, version: "28"})
			st, _ := s.board.get()
			if st.State != now.state() || st.Asleep != (now == asleep) {
				t.Errorf("%s in %s leads to %s: it is shown to be %s, asleep %t", eventNames[e], was, now, st.State, st.Asleep)
			}
			if was.state() != now.state() && st.Activity == "what it was" {
				t.Errorf("%s in %s leads to %s: it still does %s", eventNames[e], was, now, st.Activity)
			}
		}
	}
}

// A machine that boots because its thaw ended before it was up says so; one that had booted
// does not.
func TestWhyItBootsAfterAThaw(t *testing.T) {
	for _, thawed := range []bool{true, false} {
		s := &supervisor{board: newBoard(control.Status{}), log: slog.New(slog.DiscardHandler)}
		s.board.set(func(st *control.Status) { st.Thawed = thawed })
		s.publish(comingUp, starting, message{kind: again, err: fmt.Errorf("%w: kernel panic", errEarlyEnd)})
		want := ""
		if thawed {
			want = "the VM ended before its guest came up: kernel panic"
		}
		if st, _ := s.board.get(); st.BootReason != want {
			t.Errorf("thawed %t: %q", thawed, st.BootReason)
		}
	}
}
