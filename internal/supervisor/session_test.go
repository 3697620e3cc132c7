package supervisor

import (
	"errors"
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/hyve-vm/hyve/internal/control"
	"github.com/hyve-vm/hyve/internal/guestapi"
)

// happen has something happen that is no job's step.
func (w *world) happen() {
	vm := w.vm
	if vm == nil || vm.dead {
		vm = nil
	}
	switch n := w.rng.IntN(40); {
	case n < 14 && vm != nil: // the guest comes up, and its engine
		if !vm.met {
			vm.met = true
			w.tell(message{kind: cameUp})
			return
		}
		vm.up = true
		w.tell(message{kind: engineUp})
		w.begin(func(yield func()) {
			yield()
			w.tell(message{kind: engineIsUp, vm: vm.machine})
		})
	case n == 14 && vm != nil:
		vm.crashed = w.chance(2)
		vm.die(errors.New("QEMU crashed"))
	case n == 15 && vm != nil:
		vm.said = append(vm.said, message{kind: poweredOff, poweroff: &guestapi.PowerOff{Reboot: w.chance(2)}})
		vm.die(nil)
	case n == 16 && vm != nil && w.chance(3):
		w.tell(message{kind: fatal, failure: &guestapi.Failed{Fatal: true}})
		vm.die(nil)
	case n == 17 && vm != nil && w.chance(3):
		w.tell(message{kind: trouble, failure: &guestapi.Failed{}})
	case n == 18 && vm != nil:
		w.tell(message{kind: unfit, vm: vm.machine})
	case n == 19 && vm != nil && w.chance(3):
		w.tell(message{kind: stuck, vm: vm.machine, failure: &guestapi.Failed{Fatal: true}})
	case n < 23:
		w.tell(message{kind: quiet})
	case n < 27:
		w.tell(message{kind: clientWaits})
	case n < 29:
		w.word(wordSuspend, control.StopRequest{Suspend: true})
	case n < 31:
		w.word(wordCopy, control.StopRequest{})
	case n < 33:
		w.word(wordSettle, control.StopRequest{})
	case n == 33 && w.chance(2):
		w.word(wordStop, control.StopRequest{Freeze: w.chance(2)})
	case n == 34 && w.chance(4):
		w.word(wordKill, control.StopRequest{Kill: true})
	case n == 35 && len(w.words) > 0: // who asked has gone
		word := w.words[w.rng.IntN(len(w.words))]
		word.leave()
		word.left = true
	}
}

// play lets chance decide until the session is over or there was enough of it, and then
// ends it.
func (w *world) play(length int) {
	for range length {
		if w.session.phase == over {
			break
		}
		if w.chance(500) {
			w.kill()
		}
		if len(w.jobs) > 0 && !w.chance(3) {
			w.advance(w.rng.IntN(len(w.jobs)))
		} else {
			w.happen()
		}
	}
	for n := 0; w.session.phase != over; n++ {
		if n == 0 || n%100 == 99 { // once in the middle of it, and once more
			kind, stop := wordStop, control.StopRequest{Freeze: w.chance(2)}
			if n > 500 || w.chance(2) {
				kind, stop = wordKill, control.StopRequest{Kill: true}
			}
			w.word(kind, stop)
		}
		if n > 2000 || w.isStuck() {
			w.fail("it does not end in %s, with %d jobs", w.session.phase, len(w.jobs))
			return
		}
		if len(w.jobs) > 0 {
			w.advance(w.rng.IntN(len(w.jobs)))
		}
	}
	for len(w.jobs) > 0 { // what is heard too late
		w.advance(w.rng.IntN(len(w.jobs)))
	}
	w.judge()
}

// judge looks whether all is as it must be at the end.
func (w *world) judge() {
	asked := false
	for _, word := range w.words {
		asked = asked || word.kind == wordStop || word.kind == wordKill
		switch answers := len(word.answer); {
		case answers > 1:
			w.fail("%s is answered %d times", eventNames[word.kind], answers)
		case answers == 0 && !word.left:
			w.fail("%s is not answered", eventNames[word.kind])
		case answers == 1 && word.kind == wordSuspend && <-word.answer == nil && (w.there == nil || !w.there.suspended):
			w.fail("it is suspended, and there is no state")
		}
		word.leave()
	}
	if last := w.session.last; w.there != nil && !w.there.suspended && last != nil && !last.Freeze && !last.Kill {
		w.there.cold, w.there = true, nil // as dropIfCold does
	}
	suspended := false
	for _, st := range w.made {
		ends := 0
		for _, is := range []bool{st.ran, w.there == st, st.refused && !st.ran, st.cold} {
			if is {
				ends++
			}
		}
		if ends != 1 || st.taken {
			w.fail("a state has %d ends: ran %t, is there %t, was refused %t, dropped %t; taken: %t", ends, st.ran, w.there == st, st.refused, st.cold, st.taken)
		}
		suspended = suspended || st.suspended
	}
	if vm := w.session.run.vm; vm != nil && !asked && w.session.err == nil && w.session.run.poweroff == nil && !suspended && !w.lost {
		w.fail("it ended by itself, and says nothing: %v", vm.Err())
	}
	if w.doing != 0 {
		w.fail("something is still done with the VM")
	}
}

// Whatever comes first: states are consumed or put back, who waits is answered, what is
// shown is a phase that was, and nothing is done with a VM while something else is.
func TestInterleavings(t *testing.T) {
	plays := uint64(1_000_000)
	if testing.Short() {
		plays = 30_000
	}
	first := uint64(0)
	if seed, err := strconv.ParseUint(os.Getenv("HYVE_TEST_SEED"), 10, 64); err == nil {
		first, plays = seed, 1
	}
	var next, bad atomic.Uint64
	var ends [phases]atomic.Uint64
	var workers sync.WaitGroup
	for range runtime.GOMAXPROCS(0) {
		workers.Go(func() {
			for bad.Load() < 5 {
				seed := first + next.Add(1) - 1
				if seed >= first+plays {
					return
				}
				w := newWorld(seed)
				w.verbose = plays == 1
				w.play(40)
				ends[w.session.phase].Add(1)
				if len(w.wrong) > 0 {
					bad.Add(1)
					t.Errorf("HYVE_TEST_SEED=%d: %s\n%s", seed, strings.Join(w.wrong, "; "), strings.Join(w.story, "\n"))
				}
			}
		})
	}
	workers.Wait()
	if ends[over].Load() != plays && bad.Load() == 0 {
		t.Errorf("%d of %d ended", ends[over].Load(), plays)
	}
}
