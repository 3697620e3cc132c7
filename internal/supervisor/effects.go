package supervisor

import (
	"context"
	"errors"
	"slices"

	"github.com/hyve-vm/hyve/internal/control"
	"github.com/hyve-vm/hyve/internal/frozen"
	"github.com/hyve-vm/hyve/internal/guestapi"
	"github.com/hyve-vm/hyve/internal/machine"
)

// The supervisor has the effects that its session decides.
var _ effects = (*supervisor)(nil)

// publish implements effects.
func (s *supervisor) publish(was, now phase, m message) {
	switch {
	case now == starting && m.kind == again:
		if errors.Is(m.err, errEarlyEnd) {
			s.log.Warn("booting again", "cause", m.err)
			s.board.set(func(st *control.Status) {
				if st.Thawed {
					st.BootReason = m.err.Error()
				}
			})
		}
		s.board.reboot()
	case now == suspending:
		s.show(control.Stopping, "Suspending")
	case now.state() == control.Stopping && (was.state() != control.Stopping || now == leaving):
		s.show(control.Stopping, "Stopping")
	case was == rousing && now == starting:
		s.show(control.Starting, "Booting")
	case now == asleep && was != now:
		s.log.Info("asleep")
		s.found = frozen.Inspect(s.machine.Dir().Frozen())
		s.board.set(func(st *control.Status) { st.Asleep, st.HypervisorID = true, 0 })
	case was == asleep && now == rousing:
		s.log.Info("woken")
		s.board.set(func(st *control.Status) { st.Asleep = false })
	case was == suspending && now == running:
		s.show(control.Running, "")
	case (was == cancelling || was == condemned) && m.err != nil && !errors.Is(m.err, errStopped) && !errors.Is(m.err, context.Canceled):
		s.log.Warn("stopped while it started", "cause", m.err)
	}
	if now == running && was != running {
		s.idle.restart()
	}
	if m.kind == engineIsUp && now.state() == control.Running {
		s.engineAnswers(m.version)
		go s.inbox.post(message{kind: wordSettle}) // what was set since it began to start
	}
}

// show publishes a state and what is being done. A stop that waits for the host says so.
func (s *supervisor) show(state control.State, activity string) {
	s.board.set(func(st *control.Status) {
		if state == control.Stopping && slices.Contains(st.Problems, noRoom) {
			activity = "Waiting for room on the host's disk"
		}
		st.State, st.Activity = state, activity
	})
}

// do implements effects.
func (s *supervisor) do(t task) {
	vm := t.run.vm
	switch t.action {
	case power:
		reboot := t.cause.kind == again
		if reboot {
			s.reachable.shut()
		}
		go s.powerOn(reboot)
	case abort:
		s.callOff(errStopped)
	case kill:
		go s.kill(t)
	case unplug:
		go vm.Quit(context.Background())
	case shutDown, giveUp:
		go s.shutDown(vm, t.run.thawed)
	case end:
		go s.end(t)
	case copyVM:
		go s.copyTo(t)
	case settle:
		go s.settle(t)
	case suspend:
		s.log.Info("asked to suspend")
		go s.suspend(t)
	case doze:
		select {
		case <-s.idle.woken: // long ago
		default:
		}
		go s.fallAsleep(t)
	case notNow:
		s.idle.restart()
	case complain:
		s.complain(t.cause.failure)
	case makeRoom:
		s.room.wait(s.board, vm)
	}
}

// kill ends the VM at once, or as soon as its guest has written what it holds to its disk.
func (s *supervisor) kill(t task) {
	if t.cause.kind == wordKill && t.stop.Sync {
		s.syncGuest(t.run.vm.Done())
	}
	t.cause.reply(t.run.vm.Kill())
}

// settle gives the guest what is new in its settings. A stop waits for the end of that, so
// a guest that does not answer has its time and no more.
func (s *supervisor) settle(t task) {
	ctx, cancel := context.WithTimeout(t.ctx, settingsPatience)
	defer cancel()
	var err error
	if t.cause.anew {
		err = s.identifyAnew(ctx)
	} else {
		err = s.catchUp(ctx, t.run.vm)
	}
	if err != nil && t.cause.answer == nil {
		s.guest.trouble(err.Error())
	}
	s.inbox.post(message{kind: finished, err: err})
}

// identifyAnew tells the guest who it is when its keys or certificates are others.
func (s *supervisor) identifyAnew(ctx context.Context) error {
	identity, err := s.resources.guestIdentity()
	if err != nil {
		return err
	}
	return s.guest.ask(ctx, guestapi.Request{Identity: &identity})
}

// copyTo makes a copy of the machine for who asked, as long as that waits for it.
func (s *supervisor) copyTo(t task) {
	ctx, cancel := context.WithCancel(t.ctx)
	defer cancel()
	defer context.AfterFunc(t.cause.ctx, cancel)()
	err := s.copyVM(ctx, t.run.vm, machine.Dir(t.cause.dir))
	s.inbox.post(message{kind: finished, err: err})
}

// note implements effects.
func (s *supervisor) note(m message) {
	switch m.kind {
	case cameUp:
		s.forwardGuestPorts()
	case warm:
		s.warm.start(s.warmUp)
	case engineUp:
		if p := s.session.phase; p != dozing && p != nodding {
			s.reachable.open()
		}
		vm := s.session.run.vm
		s.ready.start(func() { s.reachEngine(s.ctx, vm) })
	case engineDown:
		s.engineless(&control.Failure{Cause: "the engine of this machine is not running", Hint: "hyve logs says why; hyve restart starts it"})
	case occupied:
		s.idle.setBusy(m.runs)
	case unstuck:
		s.room.found(s.board)
	}
}

// complain publishes what the guest tells of a failure that it survives.
func (s *supervisor) complain(failure *guestapi.Failed) {
	s.board.complaint(failureOf(failure).Error())
	if failure.Phase.String() == guestapi.PhaseEngine && !s.session.run.engineUp {
		s.engineless(failureOf(failure))
	}
}

// engineless publishes that a machine runs on without its engine, and why.
func (s *supervisor) engineless(why *control.Failure) {
	if s.session.phase.state() != control.Running {
		return
	}
	s.board.set(func(st *control.Status) { st.EngineVersion, st.Failure = "", why.Bounded() })
}
