package supervisor

import (
	"context"
	"errors"
	"fmt"

	"github.com/hyve-vm/hyve/internal/control"
	"github.com/hyve-vm/hyve/internal/guestapi"
	"github.com/hyve-vm/hyve/internal/hypervisor"
)

// errNotRunning is for words that need a machine that runs.
var errNotRunning = errors.New("the machine is not running")

// A message tells a session of something.
type message struct {
	kind kind
	err  error // of what has failed, or nil

	ctx    context.Context     // of a word's
	answer chan<- error        // its answer, once; nil if nobody waits for it
	stop   control.StopRequest // of a stop or a kill
	dir    string              // of a copy: a machine's directory
	anew   bool                // of a wordSettle: give the guest its identity anew

	vm       *machineVM         // of which it is; nil if that is no matter
	crashed  bool               // of vmEnded: the hypervisor had a fault of its own
	words    string             // of vmEnded: what the console said last
	failure  *guestapi.Failed   // of trouble and fatal
	poweroff *guestapi.PowerOff // of poweredOff
	version  string             // of engineIsUp: the engine's
	runs     bool               // of occupied
}

// reply answers who waits.
func (m message) reply(err error) {
	if m.answer != nil {
		m.answer <- err
	}
}

// A machineVM is a VM that runs, and what its guest is to be told first.
type machineVM struct {
	*hypervisor.Instance
	opening func() (guestapi.Request, error)
	stuck   <-chan error // the host's disk cannot be written, and why; nil when it can again
}

// effects do what a session decides. No method waits: what comes of it is a message.
type effects interface {
	// publish shows that a message has led from one phase to another, or to the same.
	publish(was, now phase, m message)
	// serveVM speaks with the guest of a VM that has just begun to run; vmEnded is last.
	serveVM(vm *machineVM, thawed bool)
	// do begins what an action asks for.
	do(task)
	// note takes notice of what changes no phase.
	note(message)
}

// A task is what an action asks for.
type task struct {
	action action
	cause  message
	stop   control.StopRequest // what was asked for last
	run    run
	ctx    context.Context // of what is done with a VM; ends when that has
}

// A run is a VM and what is known of it.
type run struct {
	vm       *machineVM
	thawed   bool // it went on from a frozen state
	cameUp   bool // its guest has come up
	engineUp bool // as the guest has said last
	failure  *guestapi.Failed
	poweroff *guestapi.PowerOff
}

// A session is the run of a machine from its start to its end, rebooting and sleeping in
// between. One goroutine owns it, and passes it all that happens as messages.
type session struct {
	effects effects

	phase   phase
	run     run
	doing   *message           // for which something is being done with the VM
	callOff context.CancelFunc // of it
	ended   *message           // the VM's end, of which nobody is to hear before that is over
	waiting []message          // who waits for a phase that is settled
	called  bool               // a client waits for the guest, without a word
	settled bool               // it has just come to one
	last    *control.StopRequest
	early   int   // how often the VM ended before its guest came up
	err     error // how the session ended
}

// handle takes notice of a message and does what is due.
func (s *session) handle(m message) {
	s.step(m)
	for {
		switch {
		case s.ended != nil && s.doing == nil:
			m := *s.ended
			s.ended = nil
			s.step(m)
		case s.settled:
			s.settled = false
			s.present()
		default:
			return
		}
	}
}

// present has another look at what waits.
func (s *session) present() {
	waiting, called := s.waiting, s.called
	s.waiting, s.called = nil, false
	for _, m := range waiting {
		if m.ctx != nil && m.ctx.Err() != nil { // nobody any more
			continue
		}
		s.step(m)
	}
	if called {
		s.step(message{kind: clientWaits})
	}
}

// step is handle without what waits.
func (s *session) step(m message) {
	asked, outcome := s.doing, m.err
	if !s.notice(&m) {
		return
	}
	was := s.phase
	now, action := next(was, m.kind)
	if now != was {
		s.phase, s.settled = now, now.settled()
	}
	s.effects.publish(was, now, m)
	if m.kind == finished || m.kind == isFrozen || m.kind == unfrozen {
		asked.reply(outcome) // who then looks sees what has come of it
	}
	if now == over && was != over {
		s.err = m.err
		if was == cancelling || was == condemned {
			s.err = errStopped
		}
	}
	s.act(action, m)
}

// notice keeps what a message says. It returns false if that is all there is to it.
func (s *session) notice(m *message) bool {
	begins := m.kind == booted || m.kind == thawed
	if m.vm != nil && m.vm != s.run.vm && !begins {
		return false // it has ended
	}
	switch m.kind {
	case booted, thawed:
		s.run = run{vm: m.vm, thawed: m.kind == thawed}
		s.effects.serveVM(m.vm, s.run.thawed)
	case wordStop, wordKill:
		s.last = &m.stop
	case finished, isFrozen, unfrozen:
		s.callOff()
		s.doing, m.err = nil, nil
	case trouble:
		if _, action := next(s.phase, trouble); action == giveUp {
			s.run.failure, s.last = m.failure, &control.StopRequest{}
		}
	case stuck:
		if s.phase == comingUp {
			s.run.failure = m.failure
		}
	case unfit:
		return !s.run.cameUp
	case vmEnded:
		if s.doing != nil {
			s.callOff()
			s.ended = m
			return false
		}
		m.kind, m.err = s.verdict(*m)
	case cameUp:
		s.run.cameUp = true
	case engineUp, engineDown:
		s.run.engineUp = m.kind == engineUp
	case fatal:
		s.run.failure = m.failure
	case poweredOff:
		s.run.poweroff = m.poweroff
	}
	if int(m.kind) < events {
		return true
	}
	s.effects.note(*m)
	return false
}

// act begins what an action asks for.
func (s *session) act(action action, m message) {
	switch action {
	case nothing:
		return
	case refuse:
		m.reply(errNotRunning)
		return
	case grant:
		m.reply(nil)
		return
	case wait, rouse:
		if m.kind == clientWaits {
			s.called = true
		} else {
			s.waiting = append(s.waiting, m)
		}
		if action == wait {
			return
		}
		action = power
	}
	t := task{action: action, cause: m, run: s.run, ctx: context.Background()}
	if s.last != nil {
		t.stop = *s.last
	}
	switch action {
	case end, shutDown, abort, giveUp:
		m.reply(nil)
		t.cause.answer = nil
	}
	switch action {
	case end, shutDown, kill, giveUp, unplug:
		if s.ended != nil { // nothing is left to be ended
			t.cause.reply(nil)
			return
		}
	}
	switch action {
	case end, copyVM, settle, suspend, doze:
		t.ctx, s.callOff = context.WithCancel(context.Background())
		s.doing = &t.cause
	}
	s.effects.do(t)
}

// errEarlyEnd says that a VM ended, or its hypervisor crashed, before its guest was up. Under
// emulation a kernel does that once in many boots: before it has a console to say why, or
// by a panic over an instruction that it is patching. Nothing is lost by booting it again.
var errEarlyEnd = errors.New("the VM ended before its guest came up")

// earlyEnds is how often that is taken for bad luck.
const earlyEnds = 2

// verdict is what the end of the VM is, and why it is one.
func (s *session) verdict(m message) (kind, error) {
	kind, err := s.run.verdict(s.phase, m)
	if errors.Is(err, errEarlyEnd) && s.early < earlyEnds {
		s.early++
		return again, err
	}
	return kind, err
}

func (r *run) verdict(p phase, m message) (kind, error) {
	vmErr := r.vm.Err()
	switch {
	case r.failure != nil:
		return broken, failureOf(r.failure)
	case p == stopping || p == nodding:
		return gone, nil
	case r.poweroff != nil && r.poweroff.Reboot:
		return again, nil
	case r.poweroff != nil:
		return gone, nil
	case m.crashed && !r.cameUp:
		return gone, fmt.Errorf("%w: %w", errEarlyEnd, vmErr)
	case vmErr != nil:
		return gone, fmt.Errorf("the VM ended: %w", vmErr)
	case m.err != nil: // of the conversation
		return gone, m.err
	case !r.cameUp || p == comingUp && !r.thawed:
		// A thawed guest has a memory to lose, which a boot would pass over in silence.
		return gone, fmt.Errorf("%w: %s", errEarlyEnd, m.words)
	}
	return gone, &control.Failure{Cause: "the VM ended by itself: " + m.words}
}

// A mailbox is where a session gets its messages, until it is over.
type mailbox struct {
	messages chan message
	over     chan struct{}
}

func newMailbox() *mailbox {
	return &mailbox{make(chan message), make(chan struct{})}
}

// post passes a message on. It returns false if the session is over.
func (b *mailbox) post(m message) bool {
	select {
	case b.messages <- m:
		return true
	case <-b.over:
		return false
	}
}

// ask passes a word on and waits for its answer, which is errNotRunning once the session
// is over.
func (b *mailbox) ask(ctx context.Context, m message) error {
	answer := make(chan error, 1)
	m.ctx, m.answer = ctx, answer
	if !b.post(m) {
		return errNotRunning
	}
	select {
	case err := <-answer:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}
