package supervisor

import (
	"context"
	"time"

	"github.com/hyve-vm/hyve/internal/guestapi"
	"github.com/hyve-vm/hyve/internal/hypervisor"
)

// patience is how long a guest may take to shut down cleanly. Docker's own
// default for a container is 10 s; users set minutes for data bases.
const patience = 3 * time.Minute

// end freezes the VM where that was asked for and can be, or leaves it to be shut down.
func (s *supervisor) end(t task) {
	m := message{kind: unfrozen}
	if t.stop.Freeze && s.resources.accel.Freezes() {
		m = froze(s.freeze(t.run.vm, guestapi.Freeze{}, false))
		if m.err != nil {
			s.log.Warn("shutting down instead of freezing", "cause", m.err)
		}
	}
	s.inbox.post(m)
}

// shutDown asks the guest for its end, and pulls the plug where that is in vain.
func (s *supervisor) shutDown(vm hypervisor.VM, wasThawed bool) {
	if wasThawed { // what runs in it is asked, too
		s.guest.await(vm.Done())
	}
	if s.guest.send(guestapi.Request{Shutdown: &guestapi.Shutdown{}}) != nil {
		// A guest that has not said hello runs nothing yet; one that does not listen is lost.
		vm.Quit(context.Background())
		return
	}
	select {
	case <-vm.Done():
	case <-time.After(patience):
		s.log.Warn("the guest does not shut down; pulling its plug", "after", patience)
		vm.Quit(context.Background())
	}
}

// syncPatience is how long a guest that is to be killed may take to write to its disk.
const syncPatience = time.Second

// syncGuest has a guest that is about to be killed write what it holds to its disk, as far
// as it does within syncPatience and before its VM ends.
func (s *supervisor) syncGuest(ended <-chan struct{}) {
	ctx, cancel := context.WithTimeout(context.Background(), syncPatience)
	defer cancel()
	done := make(chan error, 1)
	// A guest that is stuck does not even take the question.
	go func() { done <- s.guest.ask(ctx, guestapi.Request{Sync: &struct{}{}}) }()
	select {
	case err := <-done:
		if err != nil {
			s.log.Warn("killing a guest that has not written to its disk", "cause", err)
		}
	case <-ctx.Done():
		s.log.Warn("killing a guest that has not written to its disk", "within", syncPatience)
	case <-ended:
	}
}
