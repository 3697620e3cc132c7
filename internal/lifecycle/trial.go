package lifecycle

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/hyve-vm/hyve/internal/control"
	"github.com/hyve-vm/hyve/internal/hypervisor"
	"github.com/hyve-vm/hyve/internal/machine"
	"github.com/hyve-vm/hyve/internal/trial"
)

// That a state could be written does not say that a machine goes on from it: clocks of
// processors and hypervisors have their own ideas of that. So before anybody gets a machine
// of a host's first template of some hardware, one is made of it that nobody gets. It is
// made and thawed as any other, is asked whether it is still what it was, and thrown away.

const (
	trialName = "trial" // of that machine
	// attempts is how many trials have to fail for a no: a busy host may spoil one.
	attempts = 2
	// trialPatience bounds the trial. A thaw takes about a second, on a busy host several,
	// and one that is in vain ends by a boot.
	trialPatience = 3 * time.Minute
)

// A note is when a template has noted what it is, or why it cannot.
type note struct {
	at  time.Time
	err error
}

// takeNote has a template that runs note what it is.
func takeNote(ctx context.Context, t *machine.Machine) note {
	return note{time.Now(), control.NewClient(t.Dir().ControlSocket()).Examine(ctx, control.ExamineRequest{})}
}

// grant lets a template be frozen, and thawed for its trial, in its own data directory.
func (s *shape) grant(t *machine.Machine) error {
	return errors.Join(
		os.MkdirAll(t.Home().Templates(), 0o700),
		trial.New(t, s.backend, s.accel.Name, nil).Keep(trial.Path(t, s.backend, s.accel.Name)),
	)
}

// proven tells whether another template of the same hardware was tried, and works.
func (s *shape) proven() bool {
	tried, _ := trial.Read(s.trial())
	return tried.Works
}

// refusedLately tells whether a trial was in vain so lately that nobody tries again.
func (s *shape) refusedLately() bool {
	tried, ok := trial.Read(s.trial())
	return ok && !tried.Works && tried.Fresh()
}

// prove tries a template that was frozen and keeps what came of it. The error says why nothing can be said.
func (s *shape) prove(ctx context.Context, t *machine.Machine, noted note, follow func(control.Status)) (works bool, err error) {
	failed := noted.err
	if failed == nil {
		follow(control.Status{State: control.Starting, Activity: "Trying a thaw"})
		for range attempts {
			if failed, err = s.try(ctx, t, noted.at); err != nil {
				return false, err
			}
			if failed == nil {
				break
			}
		}
	}
	if ctx.Err() != nil {
		return false, context.Cause(ctx)
	}
	return failed == nil, trial.New(s.like, s.backend, s.accel.Name, failed).Keep(s.trial())
}

// try makes a machine of a template that has taken a note at a time, and returns what is
// wrong with it.
func (s *shape) try(ctx context.Context, t *machine.Machine, noted time.Time) (failed, err error) {
	m := s.machine(t.Home(), trialName)
	if err := makeFiles(ctx, m, string(t.Dir())); err != nil {
		return nil, err
	}
	bounded, cancel := context.WithTimeoutCause(ctx, trialPatience, fmt.Errorf("it is not up after %v", trialPatience))
	defer cancel()
	status, failed := start(bounded, m, true, func(control.Status) {})
	if ended := (*StartError)(nil); errors.As(failed, &ended) {
		failed = &ended.Failure
	}
	if failed == nil && !status.Thawed {
		failed = errors.New(cmp.Or(status.BootReason, "it ended before it was up"))
	}
	if failed == nil {
		failed = control.NewClient(m.Dir().ControlSocket()).Examine(bounded, control.ExamineRequest{Noted: noted})
	}
	pullPlug(context.WithoutCancel(ctx), m.Dir(), m.Name)
	if err := os.RemoveAll(string(m.Dir())); err != nil {
		return nil, err
	}
	return failed, nil
}

// distrust has the next template of a machine's hardware tried, though an earlier one worked:
// a machine was made of that and could not be thawed.
func distrust(m *machine.Machine, backend hypervisor.Backend, accel string) {
	path := trial.Path(m, backend, accel)
	if tried, _ := trial.Read(path); tried.Works {
		os.Remove(path)
	}
}
