package lifecycle

import (
	"bytes"
	"errors"
	"fmt"
	"reflect"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/hyve-vm/hyve/internal/control"
	"github.com/hyve-vm/hyve/internal/hint"
	"github.com/hyve-vm/hyve/internal/machine"
)

// What a caller has left open is closed in its supervisor, and nothing else.
func TestDropInherited(t *testing.T) {
	var pipe [2]int
	if err := syscall.Pipe(pipe[:]); err != nil { // not to be closed at an exec
		t.Fatal(err)
	}
	unix.CloseOnExec(pipe[0])
	defer unix.Close(pipe[0])
	if err := dropInherited(); err != nil {
		t.Fatal(err)
	}
	for fd, want := range map[int]bool{pipe[0]: true, pipe[1]: pipe[1] <= readyFD, 1: true} {
		if _, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); (err == nil) != want {
			t.Errorf("descriptor %d: %v", fd, err)
		}
	}
}

// What a supervisor answers is what its starter reads.
func TestStartersAnswer(t *testing.T) {
	for _, test := range []struct {
		err    error
		locked bool
		want   *control.Failure
	}{
		{err: nil},
		{err: fmt.Errorf("locking: %w", machine.ErrLocked), locked: true},
		{err: errors.New("no room"), want: &control.Failure{Cause: "no room"}},
		{err: hint.With(errors.New("no room"), "make some"), want: &control.Failure{Cause: "no room", Hint: "make some"}},
	} {
		var answer bytes.Buffer
		writeAnswer(&answer, test.err)
		failure, err := readAnswer(&answer)
		if errors.Is(err, machine.ErrLocked) != test.locked || !test.locked && err != nil || !reflect.DeepEqual(failure, test.want) {
			t.Errorf("for %v the starter reads %+v, %v", test.err, failure, err)
		}
	}
}
