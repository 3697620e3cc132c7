package supervisor

import (
	"context"
	"errors"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/hyve-vm/hyve/internal/control"
	"github.com/hyve-vm/hyve/internal/guestapi"
	"github.com/hyve-vm/hyve/internal/hypervisor"
)

// serveVM implements effects: it speaks with the guest until its VM has ended.
func (s *supervisor) serveVM(vm *machineVM, wasThawed bool) {
	s.board.set(func(st *control.Status) { st.HypervisorID, st.Unconfined = vm.PID, vm.Unconfined })
	s.board.step("hypervisor", "")
	s.warm, s.ready = new(flight), new(flight)
	s.room.stop()
	if !wasThawed {
		s.forwardGuestPorts()
	}
	go func() {
		for why := range vm.stuck {
			m := message{kind: unstuck, vm: vm}
			if why != nil {
				m.kind = stuck
				m.failure = &guestapi.Failed{Phase: guestapi.NewText(guestapi.PhaseDisk), Cause: guestapi.NewProse(why.Error()), Fatal: true}
			}
			s.inbox.post(m)
		}
	}()
	go func() { s.inbox.post(s.converse(vm, wasThawed)) }()
}

// watchHypervisor logs the hypervisor's events, and passes on those that are about room on
// the host's disk: why there is none, or nil.
func (s *supervisor) watchHypervisor(events <-chan hypervisor.Event) <-chan error {
	stuck := make(chan error)
	go func() {
		defer close(stuck)
		for event := range events {
			s.log.Info("hypervisor event", "event", event.Name)
			switch event.Kind {
			case hypervisor.DiskFailed:
				stuck <- event.Cause
			case hypervisor.WentOn: // unless the write fails again
				stuck <- nil
			}
		}
	}()
	return stuck
}

// converse speaks with the guest until its VM has ended and all that it said is heard.
func (s *supervisor) converse(vm *machineVM, wasThawed bool) message {
	ctx, cancel := context.WithCancel(s.ctx)
	defer cancel()
	var talk errgroup.Group
	talk.Go(func() error {
		conn, err := s.sockets.guest.accept(ctx)
		if err != nil {
			return err
		}
		return s.guest.converse(ctx, conn, wasThawed, vm.opening)
	})
	if wasThawed {
		defer s.watchThaw(vm)()
	}
	<-vm.Done()
	// What the guest said last is still in the socket, whose end ends the talk.
	// One that never began needs to be told.
	defer time.AfterFunc(time.Second, cancel).Stop()
	err := talk.Wait()
	if errors.Is(err, context.Canceled) {
		err = nil
	}
	s.guest.ports.clear()
	return message{kind: vmEnded, vm: vm, err: err, crashed: errors.Is(vm.Err(), hypervisor.ErrCrashed), words: lastWords(s.logs.console.last())}
}
