package cli

import (
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/hyve-vm/hyve/internal/lifecycle"
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
	for fd, want := range map[int]bool{pipe[0]: true, pipe[1]: pipe[1] <= lifecycle.ReadyFD, 1: true} {
		if _, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); (err == nil) != want {
			t.Errorf("descriptor %d: %v", fd, err)
		}
	}
}
