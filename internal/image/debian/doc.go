// Package debian reads a Debian archive without any tool of Debian's: it
// verifies the signed metadata, resolves dependencies, downloads packages and
// unpacks them.
//
// The chain of trust is that of apt: an InRelease file signed by a key of the
// embedded keyring names the SHA-256 of every package index, which names the
// SHA-256 of every package. Nothing that came over the network is parsed, apart
// from the signature itself, before it has been verified.
package debian

import (
	"errors"
	"strings"
)

// joinLine joins errors into one of a single line, which keeps the first hint.
// An errNotFound says little where another URL of the same file said more.
func joinLine(errs []error) error {
	var kept []error
	for _, e := range errs {
		if !errors.Is(e, errNotFound) {
			kept = append(kept, e)
		}
	}
	if len(kept) == 0 {
		kept = errs[len(errs)-1:]
	}
	if len(kept) == 1 {
		return kept[0]
	}
	return joined(kept)
}

type joined []error

func (j joined) Error() string {
	texts := make([]string, len(j))
	for i, e := range j {
		texts[i] = e.Error()
	}
	return strings.Join(texts, "; ")
}

func (j joined) Unwrap() []error { return j }
