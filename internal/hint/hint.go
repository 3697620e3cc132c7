// Package hint keeps what a user can do about an error beside it. Errors of other packages
// that know a way out have a method Hint, as those of With.
package hint

import "errors"

// hinted is an error whose way out is known.
type hinted struct {
	error
	text string
}

func (h hinted) Hint() string { return h.text }

func (h hinted) Unwrap() error { return h.error }

// With returns err with a hint, a line without a full stop; err itself if that is empty.
func With(err error, text string) error {
	if text == "" {
		return err
	}
	return hinted{err, text}
}

// Of returns the hint of the first error in the chain of err that has one, or nothing.
func Of(err error) string {
	var h interface{ Hint() string }
	if errors.As(err, &h) {
		return h.Hint()
	}
	return ""
}
