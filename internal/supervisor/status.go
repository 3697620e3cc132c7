package supervisor

import (
	"slices"
	"sync"
	"time"

	"github.com/hyve-vm/hyve/internal/control"
)

// board holds the machine's status and tells when it changes.
type board struct {
	mu      sync.Mutex
	began   time.Time
	status  control.Status
	changed chan struct{}
}

func newBoard(status control.Status) *board {
	status.State = control.Starting
	status.Started = time.Now()
	return &board{began: status.Started, status: status, changed: make(chan struct{})}
}

// get returns the status and a channel that is closed at its next change.
func (b *board) get() (control.Status, <-chan struct{}) {
	b.mu.Lock()
	defer b.mu.Unlock()
	status := b.status
	status.Problems = slices.Clone(status.Problems)
	status.Timing = slices.Clone(status.Timing)
	return status, b.changed
}

// set changes the status.
func (b *board) set(change func(*control.Status)) {
	b.mu.Lock()
	defer b.mu.Unlock()
	change(&b.status)
	close(b.changed)
	b.changed = make(chan struct{})
}

// start is when the machine began to start.
func (b *board) start() time.Time {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.began
}

// reboot notes that the machine starts again.
func (b *board) reboot() {
	b.set(func(s *control.Status) {
		s.State, s.Activity = control.Starting, "Rebooting"
		s.HypervisorID, s.Timing = 0, nil
		b.began = time.Now()
	})
}

// step notes that a step of the start has ended, and what comes next.
func (b *board) step(name, next string) { b.stepAt(name, next, time.Now()) }

func (b *board) stepAt(name, next string, at time.Time) {
	b.set(func(s *control.Status) {
		if s.State != control.Starting {
			return
		}
		s.Timing = append(s.Timing, control.Step{Name: name, At: at.Sub(b.began)})
		if next != "" {
			s.Activity = next
		}
	})
}

// maxProblems bounds the list of problems; the oldest go first.
const maxProblems = 20

// problem adds a line worth knowing, once.
func (b *board) problem(line string) {
	b.set(func(s *control.Status) {
		if slices.Contains(s.Problems, line) {
			return
		}
		s.Problems = append(s.Problems, line)
		if extra := len(s.Problems) - maxProblems; extra > 0 {
			s.Problems = slices.Delete(s.Problems, 0, extra)
		}
	})
}

// solved takes a problem back.
func (b *board) solved(line string) {
	b.set(func(s *control.Status) {
		s.Problems = slices.DeleteFunc(s.Problems, func(p string) bool { return p == line })
	})
}
