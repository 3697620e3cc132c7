package supervisor

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/hyve-vm/hyve/internal/control"
	"github.com/hyve-vm/hyve/internal/frozen"
	"github.com/hyve-vm/hyve/internal/guestapi"
)

// idle decides when a machine in which nothing happens falls asleep: its VM is frozen
// and ended, and comes back when somebody has something for it. This process stays,
// with the network and all that listens.
type idle struct {
	woken   chan struct{} // somebody has something for the guest
	changed chan struct{} // what is below has

	mu     sync.Mutex
	after  time.Duration // 0: never
	busy   bool          // something runs
	since  time.Time     // the earliest from which on nothing can have happened
	asleep bool          // falling asleep, or asleep
}

func newIdle(after time.Duration) *idle {
	return &idle{woken: make(chan struct{}, 1), changed: make(chan struct{}, 1), after: after, since: time.Now()}
}

// update changes what is to be known; all that counts begins anew.
func (i *idle) update(change func()) {
	i.mu.Lock()
	change()
	i.since = time.Now()
	i.mu.Unlock()
	select {
	case i.changed <- struct{}{}:
	default:
	}
}

// wait returns how long nothing has to happen before it is time, false if that does
// not matter.
func (i *idle) wait(lastTraffic time.Time) (time.Duration, bool) {
	i.mu.Lock()
	defer i.mu.Unlock()
	quiet := i.since
	if lastTraffic.After(quiet) {
		quiet = lastTraffic
	}
	return time.Until(quiet.Add(i.after)), i.after > 0 && !i.busy && !i.asleep
}

func (i *idle) wake() {
	select {
	case i.woken <- struct{}{}:
	default:
	}
}

func (i *idle) isAsleep() bool {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.asleep
}

// watchIdle has the machine fall asleep whenever it is time, until ctx ends.
func (s *supervisor) watchIdle(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		left, matters := s.idle.wait(s.net.LastTraffic())
		if matters && left <= 0 {
			s.fallAsleep()
			continue
		}
		timer.Stop()
		if matters {
			timer.Reset(left)
		}
		select {
		case <-timer.C:
		case <-s.idle.changed:
		case <-ctx.Done():
			return
		}
	}
}

// fallAsleep freezes the machine as it is, unless something runs in it after all.
func (s *supervisor) fallAsleep() {
	s.copying.Lock()
	defer s.copying.Unlock()
	vm, err := s.running()
	if err != nil || !s.reachable.isOpen() { // it only just comes up
		s.idle.update(func() {})
		return
	}
	s.freezing.Add(1)
	defer s.freezing.Done()
	select {
	case <-s.idle.woken: // long ago
	default:
	}
	s.rehearsal.forget() // later, that would wake the machine
	s.net.Hold(s.idle.wake)
	if left, _ := s.idle.wait(s.net.LastTraffic()); left > 0 { // at the last moment
		s.net.Release()
		return
	}
	s.reachable.shut()
	s.idle.update(func() { s.idle.asleep = true })
	if err := s.freeze(vm, guestapi.Freeze{KeepRunning: true, IfQuiet: true}, false); err != nil {
		s.log.Info("not falling asleep", "cause", err)
		s.goOn()
		s.net.Release()
		s.reachable.open()
		s.idle.update(func() { s.idle.asleep = false })
	}
}

// sleep waits until the machine, whose VM is frozen, is to go on.
func (s *supervisor) sleep(ctx context.Context) error {
	s.log.Info("asleep")
	s.found = frozen.Look(s.machine.Dir().Frozen())
	s.board.set(func(st *control.Status) { st.Asleep, st.HypervisorID = true, 0 })
	select {
	case <-s.idle.woken:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	s.log.Info("woken")
	s.board.set(func(st *control.Status) { st.Asleep = false })
	s.idle.update(func() { s.idle.asleep = false })
	return nil
}

// dropIfCold drops the state of a machine that was shut down in its sleep, or before it went
// on: nothing ran in it, so that is all there is to do. One that is suspended stays so.
func (s *supervisor) dropIfCold() error {
	s.mu.Lock()
	cold := s.last != nil && !s.last.Freeze && !s.last.Kill
	s.mu.Unlock()
	if _, suspended := frozen.Exists(s.machine.Dir().Frozen()); !cold || suspended {
		return nil
	}
	return frozen.Drop(s.machine.Dir().Frozen())
}

// awake waits for a machine that is asleep, or just waking up.
func (s *supervisor) awake(ctx context.Context) error {
	if status, _ := s.board.get(); status.State != control.Running {
		return nil
	}
	return s.reachable.wait(ctx)
}

// Identify implements control.Supervisor.
func (s *supervisor) Identify(ctx context.Context) error {
	if status, _ := s.board.get(); status.State != control.Running {
		return errors.New("the machine is not running")
	}
	if err := s.parts.reopen(); err != nil {
		return err
	}
	identity, err := s.parts.guestIdentity()
	if err != nil {
		return err
	}
	s.rehearsal.forget() // it was made with the old certificates
	if !s.guest.isConnected() {
		return nil // it is asleep, and hears who it is when it wakes
	}
	return s.guest.ask(ctx, guestapi.Request{Identity: &identity})
}
