package supervisor

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"slices"
	"strings"
	"testing"

	"github.com/hyve-vm/hyve/internal/control"
	"github.com/hyve-vm/hyve/internal/frozen"
	"github.com/hyve-vm/hyve/internal/guestapi"
	"github.com/hyve-vm/hyve/internal/hypervisor"
	"github.com/hyve-vm/hyve/internal/hypervisor/qemu"
	"github.com/hyve-vm/hyve/internal/sparse"
)

// A crashingVM ends by itself while it is frozen.
type crashingVM struct {
	hypervisor.VM
	done  chan struct{}
	after func() // it has ended
}

var errCrash = errors.New("QEMU was ended by a signal: killed")

func (vm *crashingVM) Err() error            { return errCrash }
func (vm *crashingVM) Done() <-chan struct{} { return vm.done }
func (vm *crashingVM) Freeze(context.Context, string, *sparse.Writer) error {
	close(vm.done)
	vm.after()
	return errors.New("QEMU's monitor is closed")
}

// A suspension whose VM crashes is none, and the machine has not stopped because somebody
// wanted that: whichever is heard of first, who asked is told and the crash is reported.
// The real guest's end of the conversation, the real files.
func TestSuspendRacesCrash(t *testing.T) {
	for name, endIsFirst := range map[string]bool{"the end is heard first": true, "the end is heard last": false} {
		t.Run(name, func(t *testing.T) {
			m := testMachine(t)
			id, err := openIdentity(m)
			if err != nil {
				t.Fatal(err)
			}
			g, in, out, _ := testGuest(t.Context(), t)
			go func() { // the guest is ready, whatever it is asked for
				for {
					request, err := in.Read()
					if err != nil {
						return
					}
					if request.ID != 0 {
						out.Write(guestapi.Event{Reply: &guestapi.Reply{ID: request.ID}})
					}
				}
			}()
			s := &supervisor{machine: m, guest: g, board: newBoard(control.Status{}), log: slog.New(slog.DiscardHandler), inbox: newMailbox(),
				idle: newIdle(0), parts: parts{identity: id, accel: qemu.Verdict{Name: "tcg"}}}
			vm := &crashingVM{done: make(chan struct{}), after: func() {}}
			runs := &machineVM{VM: vm}
			tellEnd := func() { s.inbox.post(message{kind: vmEnded, vm: runs}) }
			if endIsFirst {
				vm.after = tellEnd
			}
			s.session = session{hands: s, phase: running, run: run{vm: runs, met: true}}
			var shown []control.State
			ended := make(chan struct{})
			go func() {
				defer close(ended)
				for s.session.phase != over {
					m := <-s.inbox.messages
					if m.kind == unfrozen && !endIsFirst {
						go tellEnd()
					}
					s.session.handle(m)
					status, _ := s.board.get()
					shown = append(shown, status.State)
				}
			}()
			if err := s.Stop(t.Context(), control.StopRequest{Suspend: true}); err == nil || !strings.Contains(err.Error(), "runs on") {
				t.Errorf("who asked is told %v", err)
			}
			<-ended
			if err := s.session.err; !errors.Is(err, errCrash) {
				t.Errorf("the session ended with %v", err)
			}
			if exists, _ := frozen.Exists(m.Dir().Frozen()); exists {
				t.Error("there is a state of a VM that crashed")
			}
			if !slices.Contains(shown, control.Stopping) {
				t.Errorf("it is shown to be %q", shown)
			}
		})
	}
}

// What is published is the phase that is, after every event in every phase.
func TestPublish(t *testing.T) {
	kept, _ := net.Pipe()
	s := &supervisor{machine: testMachine(t), board: newBoard(control.Status{}), log: slog.New(slog.DiscardHandler), inbox: newMailbox(), idle: newIdle(0)}
	s.rehearsal.conn = kept // it is made already
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
