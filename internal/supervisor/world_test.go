package supervisor

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"math/rand/v2"
	"slices"

	"github.com/hyve-vm/hyve/internal/control"
	"github.com/hyve-vm/hyve/internal/frozen"
	"github.com/hyve-vm/hyve/internal/guestapi"
	"github.com/hyve-vm/hyve/internal/hypervisor"
)

// A world is all that a session deals with, scripted: the hypervisor, the guest, the frozen
// states and the words. What is under way are jobs, each a coroutine that stands still
// wherever another one may come first; chance says which goes on.
type world struct {
	rng     *rand.Rand
	session session
	jobs    []job
	ctx     context.Context
	cancel  context.CancelCauseFunc
	story   []string // what happened, if anybody wants to know
	verbose bool
	wrong   []string

	shown phase // as published last
	words []*askedWord
	waits bool        // a client called when the machine was about to fall asleep
	vm    *scriptedVM // that runs, or nil
	doing int         // operations on it
	there *scriptedState
	made  []*scriptedState
	lost  bool // a state could not be kept, as who asked hears
}

// A scriptedVM has ended when it is dead; err is then why.
type scriptedVM struct {
	hypervisor.VM
	machine *machineVM
	dead    bool
	err     error
	crashed bool
	met, up bool
	said    []message // the guest's last words, which are heard before its end
}

func (vm *scriptedVM) Err() error { return vm.err }

// die ends a VM, once.
func (vm *scriptedVM) die(err error) {
	if !vm.dead {
		vm.dead, vm.err = true, err
	}
}

// A scriptedState is a frozen state, and what became of it.
type scriptedState struct {
	w         *world
	suspended bool
	taken     bool
	ran       bool // its guest has, perhaps
	refused   bool // the hypervisor says that it is of no use
	cold      bool // it was dropped, as was asked for
}

func (st *scriptedState) PutBack() error {
	if !st.taken || st.ran {
		st.w.fail("a state is put back that was not taken, or ran")
	}
	st.taken, st.w.there = false, st
	return nil
}

func (st *scriptedState) Discard() {
	if !st.taken {
		st.w.fail("a state is discarded that was not taken")
	}
	st.taken = false
}

// An askedWord waits for an answer, as a client does.
type askedWord struct {
	kind   kind
	answer chan error
	leave  context.CancelFunc
	left   bool
}

func newWorld(seed uint64) *world {
	w := &world{rng: rand.New(rand.NewPCG(seed, 0))}
	if w.chance(2) { // it begins suspended, or stopped
		w.there = &scriptedState{w: w, suspended: w.chance(2)}
		w.made = append(w.made, w.there)
	}
	w.run()
	return w
}

// run begins a supervisor's run.
func (w *world) run() {
	w.ctx, w.cancel = context.WithCancelCause(context.Background())
	w.session, w.shown, w.doing, w.waits, w.lost = session{effects: w}, preparing, 0, false, false
	w.begin(func(yield func()) {
		yield()
		if w.chance(20) || w.ctx.Err() != nil {
			w.tell(message{kind: failed, err: errors.New("there is no image")})
			return
		}
		w.tell(message{kind: prepared})
	})
}

// kill ends the supervisor and its hypervisor like a kill -9, whatever they were about, and
// has another supervisor find what is left.
func (w *world) kill() {
	for _, job := range w.jobs {
		job.stop()
	}
	w.jobs, w.vm = nil, nil
	w.cancel(nil)
	for _, word := range w.words { // who asked hears that nobody is there any more
		word.leave()
	}
	w.words = nil
	for _, st := range w.made { // as frozen.Inspect does
		if st.taken && !st.ran {
			st.taken, w.there = false, st
		}
		st.taken = false
	}
	w.run()
}

func (w *world) chance(in int) bool { return w.rng.IntN(in) == 0 }

func (w *world) fail(format string, args ...any) {
	w.wrong = append(w.wrong, fmt.Sprintf(format, args...))
}

func (w *world) note(m message) {}

// A job is a coroutine, which can be stopped wherever it stands still.
type job struct {
	next func() (struct{}, bool)
	stop func()
}

var errKilled = errors.New("killed")

// begin adds a job; it stands still wherever it yields.
func (w *world) begin(do func(yield func())) {
	var j job
	j.next, j.stop = iter.Pull(func(yield func(struct{}) bool) {
		defer func() {
			if r := recover(); r != nil && r != errKilled {
				panic(r)
			}
		}()
		do(func() {
			if !yield(struct{}{}) {
				panic(errKilled)
			}
		})
	})
	w.jobs = append(w.jobs, j)
}

// advance has a job go on to where it stands still or ends.
func (w *world) advance(i int) {
	if _, more := w.jobs[i].next(); !more {
		w.jobs = slices.Delete(w.jobs, i, i+1)
	}
}

// tell passes a message to the session and looks at what it makes of it.
func (w *world) tell(m message) {
	if w.verbose {
		name := fmt.Sprint("note ", int(m.kind)-events)
		if int(m.kind) < events {
			name = eventNames[m.kind]
		}
		w.story = append(w.story, fmt.Sprintf("%s in %s", name, w.session.phase))
	}
	if w.session.phase == over {
		m.reply(errNotRunning)
		return
	}
	aboutToSleep := func() bool { return w.session.phase == dozing || w.session.phase == nodding }
	if m.kind == clientWaits && aboutToSleep() {
		w.waits = true
	}
	w.session.handle(m)
	if w.waits && w.session.phase == asleep {
		w.fail("it sleeps, though a client waits")
	}
	w.waits = w.waits && aboutToSleep()
	if w.shown != w.session.phase {
		w.fail("%s is shown in %s", w.shown, w.session.phase)
	}
	if p := w.session.phase; (p == running || p == busy || p == dozing || p == suspending) && w.vm == nil && w.session.ended == nil {
		w.fail("there is no VM in %s", p)
	}
}

func (w *world) publish(was, now phase, _ message) {
	if was != w.shown {
		w.fail("%s leads to %s, and %s was shown", was, now, w.shown)
	}
	w.shown = now
	if now == running && (was == comingUp || was == stirring) && !w.session.run.vm.VM.(*scriptedVM).up {
		w.fail("it is shown to run, with an engine that is not up")
	}
}

func (w *world) serveVM(vm *machineVM, _ bool) {
	script := vm.VM.(*scriptedVM)
	if w.there != nil {
		w.fail("a VM runs beside a state")
	}
	w.begin(func(yield func()) {
		for !script.dead {
			yield()
		}
		yield()
		for _, m := range script.said {
			w.tell(m)
			yield()
		}
		w.vm = nil
		w.tell(message{kind: vmEnded, vm: vm, crashed: script.crashed, words: "nothing"})
	})
}

func (w *world) do(t task) {
	var vm *scriptedVM
	if t.run.vm != nil {
		vm = t.run.vm.VM.(*scriptedVM)
	}
	if w.session.ended != nil && t.action >= kill && t.action <= doze {
		w.fail("action %d is begun with a VM that has ended", t.action)
	}
	switch t.action {
	case power:
		if w.vm != nil {
			w.fail("two VMs run")
		}
		w.begin(w.start)
	case abort:
		w.cancel(errStopped)
	case kill:
		asked := slices.ContainsFunc(w.words, func(word *askedWord) bool { return word.kind == wordKill })
		if t.run.thawed && t.cause.kind != unfit && !asked {
			w.fail("what was frozen is killed, and nobody asked for that")
		}
		w.begin(func(yield func()) {
			yield()
			vm.die(nil)
			t.cause.reply(nil)
		})
	case unplug:
		w.begin(func(yield func()) { yield(); vm.die(nil) })
	case shutDown, giveUp:
		w.begin(func(yield func()) {
			yield()
			if w.chance(2) {
				vm.said = append(vm.said, message{kind: poweredOff, poweroff: &guestapi.PowerOff{}})
			}
			vm.die(nil)
		})
	case end, suspend, doze:
		w.begin(func(yield func()) { w.freeze(t, vm, yield) })
	case copyVM, settle:
		w.operate(t)
		w.begin(func(yield func()) {
			slow := w.chance(4) // so that nobody can wait for it
			for n := w.rng.IntN(3); n > 0 || slow && t.ctx.Err() == nil; n-- {
				yield()
			}
			m := message{kind: finished, err: t.ctx.Err()}
			if vm.dead {
				m.err = errors.New("the VM has ended")
			}
			w.finish(m)
		})
	}
}

// operate and finish hold an operation on the VM, of which there is one at a time.
func (w *world) operate(t task) {
	if w.doing++; w.doing > 1 {
		w.fail("two things are done with the VM at once: %d", t.action)
	}
}

func (w *world) finish(m message) {
	w.doing--
	w.tell(m)
}

// start goes on from the state that there is, or boots.
func (w *world) start(yield func()) {
	yield()
	var vm *scriptedVM
	var how = thawed
	if st := w.there; st != nil {
		_, err := resume(w.ctx, st.suspended, w.take, func(ctx context.Context, take func() error) (*hypervisor.Instance, error) {
			var err error
			if vm, err = w.load(ctx, st, take, yield); err != nil {
				return nil, err
			}
			return &hypervisor.Instance{VM: vm}, nil
		})
		unfit := (*frozen.MisfitError)(nil)
		if err != nil && !errors.As(err, &unfit) {
			w.tell(message{kind: failed, err: err})
			return
		}
		if err != nil {
			vm, w.there = nil, nil
			if st.suspended && !st.ran && !st.refused {
				w.fail("a suspended machine is booted: %v", err)
			}
			st.refused = true
		}
	}
	if vm == nil {
		how = booted
		w.tell(message{kind: bootBegins})
		yield()
		if w.ctx.Err() != nil || w.chance(30) {
			w.tell(message{kind: failed, err: errors.New("no memory")})
			return
		}
		vm = &scriptedVM{}
	}
	yield()
	vm.machine = &machineVM{Instance: &hypervisor.Instance{VM: vm}}
	w.vm = vm
	w.tell(message{kind: how, vm: vm.machine})
}

func (w *world) take() (takenState, error) {
	st := w.there
	if st == nil {
		return nil, frozen.ErrNone
	}
	if st.ran {
		w.fail("a state is taken that ran")
	}
	st.taken, w.there = true, nil
	return st, nil
}

// load is a hypervisor that goes on from a state, and may be stopped, killed or refuse at
// any step.
func (w *world) load(ctx context.Context, st *scriptedState, take func() error, yield func()) (*scriptedVM, error) {
	for step := spawned; step < steps; step++ {
		yield()
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		switch {
		case w.chance(12):
			return nil, hypervisor.ErrKilled
		case step == loaded && w.chance(12):
			st.refused = true
			return nil, errors.New("load of migration failed")
		}
		if step == taken {
			if err := take(); err != nil {
				return nil, err
			}
		}
	}
	st.ran = true
	if yield(); w.chance(12) {
		return nil, errors.Join(hypervisor.ErrKilled, hypervisor.ErrRan)
	}
	return &scriptedVM{}, nil
}

// freeze ends in a state and no VM, or in a VM that runs unless it has ended.
func (w *world) freeze(t task, vm *scriptedVM, yield func()) {
	w.operate(t)
	ended := errors.New("the VM has ended")
	if t.action == end && !t.stop.Freeze {
		yield()
		w.finish(message{kind: unfrozen})
		return
	}
	for range 2 { // the guest is asked, and the VM written
		yield()
		if vm.dead {
			w.finish(message{kind: unfrozen, err: ended})
			return
		}
		if w.chance(6) {
			w.finish(message{kind: unfrozen, err: errors.New("something runs after all")})
			return
		}
	}
	yield()
	vm.die(nil)
	yield()
	if w.there != nil {
		w.fail("there are two states")
	}
	if w.chance(20) {
		w.lost = true
		w.finish(message{kind: isFrozen, err: &lostError{errors.New("the disk is full")}})
		return
	}
	w.there = &scriptedState{w: w, suspended: t.action == suspend}
	w.made = append(w.made, w.there)
	w.finish(message{kind: isFrozen})
}

// isStuck tells whether a machine that is to stop just runs on.
func (w *world) isStuck() bool {
	underWay := len(w.jobs)
	if w.vm != nil && !w.vm.dead {
		underWay-- // what waits for its end
	}
	return w.session.phase.state() == control.Stopping && underWay == 0
}

// word has somebody ask for something.
func (w *world) word(kind kind, stop control.StopRequest) {
	word := &askedWord{kind: kind, answer: make(chan error, 2)} // a second one is a fault
	m := message{kind: kind, answer: word.answer, stop: stop}
	m.ctx, word.leave = context.WithCancel(context.Background())
	w.words = append(w.words, word)
	w.tell(m)
}
