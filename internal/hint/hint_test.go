package hint

import (
	"errors"
	"fmt"
	"io"
	"testing"
)

func TestOf(t *testing.T) {
	inner := With(io.EOF, "ask again")
	for _, test := range []struct {
		err  error
		want string
	}{
		{nil, ""},
		{io.EOF, ""},
		{inner, "ask again"},
		{fmt.Errorf("reading: %w", inner), "ask again"},
		{With(inner, "ask somebody else"), "ask somebody else"},
		{errors.Join(io.ErrClosedPipe, inner), "ask again"},
	} {
		if got := Of(test.err); got != test.want {
			t.Errorf("of %v: %q, want %q", test.err, got, test.want)
		}
	}
	if inner.Error() != "EOF" || !errors.Is(inner, io.EOF) {
		t.Errorf("with a hint it is %v", inner)
	}
}
