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
	changed chan struct{} // the fields below have

	mu    sync.Mutex
	after time.Duration // 0: never
	busy  bool          // something runs
	since time.Time     // nothing has happened since, traffic apart
}

func newIdle(after time.Duration) *idle {
	return &idle{woken: make(chan struct{}, 1), changed: make(chan struct{}, 1), after: after, since: time.Now()}
}

// setAfter changes how long it has to be quiet, setBusy whether something runs; the count
// begins anew then.
func (i *idle) setAfter(after time.Duration) {
	i.mu.Lock()
	i.after = after
	i.mu.Unlock()
	i.restart()
}

func (i *idle) setBusy(busy bool) {
	i.mu.Lock()
	i.busy = busy
	i.mu.Unlock()
	i.restart()
}

// restart begins the count anew.
func (i *idle) restart() {
	i.mu.Lock()
	i.since = time.Now()
	i.mu.Unlock()
	select {
	case i.changed <- struct{}{}:
	default:
	}
}

// wait returns how long it has to stay quiet, and false if the machine is not to fall asleep
// however quiet it is.
func (i *idle) wait(lastTraffic time.Time) (time.Duration, bool) {
	i.mu.Lock()
	defer i.mu.Unlock()
	quiet := i.since
	if lastTraffic.After(quiet) {
		quiet = lastTraffic
	}
	return time.Until(quiet.Add(i.after)), i.after > 0 && !i.busy
}

func (i *idle) wake() {
	select {
	case i.woken <- struct{}{}:
	default:
	}
}

// watchIdle tells whenever it is time to fall asleep, until ctx ends. What comes of it
// begins the count anew.
func (s *supervisor) watchIdle(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for told := false; ; {
		left, matters := s.idle.wait(s.net.LastTraffic())
		if matters && left <= 0 && !told {
			told = s.inbox.post(message{kind: quiet})
			continue
		}
		timer.Stop()
		if matters && !told {
			timer.Reset(left)
		}
		select {
		case <-timer.C:
		case <-s.idle.changed:
			told = false
		case <-ctx.Done():
			return
		}
	}
}

// fallAsleep freezes the machine as it is, unless something runs in it after all.
func (s *supervisor) fallAsleep(t task) {
	s.warmConn.forget() // later, that would wake the machine
	s.net.Hold(s.idle.wake)
	if left, _ := s.idle.wait(s.net.LastTraffic()); left > 0 { // at the last moment
		s.net.Release()
		s.inbox.post(message{kind: unfrozen})
		return
	}
	s.reachable.shut()
	err := s.freeze(t.run.vm, guestapi.Freeze{KeepRunning: true, IfQuiet: true}, false)
	if err != nil {
		s.log.Info("not falling asleep", "cause", err)
		s.goOn()
		s.net.Release()
		s.reachable.open()
	}
	s.inbox.post(froze(err))
}

// froze is what comes of a freeze.
func froze(err error) message {
	if lost := (*lostError)(nil); err == nil || errors.As(err, &lost) {
		return message{kind: isFrozen, err: err}
	}
	return message{kind: unfrozen, err: err}
}

// dropIfCold drops the state of a machine that was shut down in its sleep, or before it went
// on: nothing ran in it, so that is all there is to do. One that is suspended stays so.
func (s *supervisor) dropIfCold() error {
	last := s.session.last
	_, suspended := frozen.Exists(s.machine.Dir().Frozen())
	if last == nil || last.Freeze || last.Kill || suspended {
		return nil
	}
	return frozen.Drop(s.machine.Dir().Frozen())
}

// Identify implements control.Supervisor.
func (s *supervisor) Identify(ctx context.Context) error {
	if status, _ := s.board.get(); status.State != control.Running {
		return errNotRunning
	}
	if err := s.resources.reopen(); err != nil {
		return err
	}
	s.warmConn.forget() // it was made with the old certificates
	return s.inbox.ask(ctx, message{kind: wordSettle, anew: true})
}
