package supervisor

import (
	"slices"
	"strings"
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

	complaints []string // those of the problems that the guest told of
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
		if s.State != control.Starting || len(s.Timing) >= maxSteps {
			return
		}
		s.Timing = append(s.Timing, control.Step{Name: name, At: at.Sub(b.began)})
		if next != "" {
			s.Activity = next
		}
	})
}

// Bounds of the list of problems; of each kind the oldest go first. What the guest says is
// a part of it, so that it cannot drive out what the host has found.
const (
	maxProblems   = 20
	maxComplaints = 8
)

// maxSteps bounds what is kept of a start's steps.
const maxSteps = 64

// problem adds a line worth knowing, once.
func (b *board) problem(line string) { b.add(line, false) }

// complaint is problem for what the guest says.
func (b *board) complaint(line string) { b.add(line, true) }

func (b *board) add(line string, complaint bool) {
	b.mu.Lock()
	known := slices.Contains(b.status.Problems, line)
	b.mu.Unlock()
	if known {
		return // nobody needs to hear of it again
	}
	b.set(func(s *control.Status) {
		s.Problems = append(s.Problems, line)
		if complaint {
			b.complaints = append(b.complaints, line)
		}
		if len(b.complaints) > maxComplaints {
			b.drop(b.complaints[0])
		}
		if len(s.Problems) > maxProblems {
			b.drop(s.Problems[0])
		}
	})
}

// solved takes a problem back.
func (b *board) solved(line string) {
	b.set(func(*control.Status) { b.drop(line) })
}

// recovered takes back what the guest complained of in a phase.
func (b *board) recovered(phase string) {
	b.set(func(*control.Status) {
		for _, line := range slices.Clone(b.complaints) {
			if strings.HasPrefix(line, phase+": ") {
				b.drop(line)
			}
		}
	})
}

// drop forgets a problem. b.mu is held.
func (b *board) drop(line string) {
	is := func(p string) bool { return p == line }
	b.status.Problems = slices.DeleteFunc(b.status.Problems, is)
	b.complaints = slices.DeleteFunc(b.complaints, is)
}
