package supervisor

import (
	"context"
	"errors"

	"github.com/hyve-vm/hyve/internal/frozen"
	"github.com/hyve-vm/hyve/internal/hypervisor"
)

// A takenState is a frozen state that nobody else can take any more. It ends one way or the
// other.
type takenState interface {
	PutBack() error // nothing has run
	Discard()       // its guest runs, has run, or cannot
}

// resume starts a VM with start from the state that take takes. start calls take when the
// hypervisor is there and the guest is yet to go on. However that ends, a state that was
// taken is gone if its guest may have run, and back if nobody knows more than that it has
// not: when ctx ended, or when the hypervisor of a suspended machine was killed or did not
// even start. The error is then a *keptError where ctx has not ended. It is a
// *frozen.MisfitError where the machine can boot instead, and otherwise take's.
func resume(ctx context.Context, suspended bool, take func() (takenState, error),
	start func(ctx context.Context, take func() error) (*hypervisor.Instance, error)) (*hypervisor.Instance, error) {
	var state takenState
	var untaken error
	vm, err := start(ctx, func() error {
		state, untaken = take()
		return untaken
	})
	switch ran := err == nil || errors.Is(err, hypervisor.ErrRan); {
	case untaken != nil:
		return nil, untaken
	case ran && state != nil:
		state.Discard()
	case ran:
	case ctx.Err() != nil:
		if err := putBack(state); err != nil { // whoever looks next does it
			return nil, err
		}
		return nil, context.Cause(ctx)
	case suspended && (state == nil || errors.Is(err, hypervisor.ErrKilled)):
		return nil, &keptError{errors.Join(err, putBack(state))}
	case state != nil:
		state.Discard()
	}
	if err != nil {
		return nil, &frozen.MisfitError{Reason: err.Error()}
	}
	return vm, nil
}

func putBack(state takenState) error {
	if state == nil {
		return nil
	}
	return state.PutBack()
}

// A keptError says why a suspended machine does not go on, which has lost nothing.
type keptError struct{ cause error }

func (e *keptError) Error() string { return e.cause.Error() }
func (e *keptError) Unwrap() error { return e.cause }
