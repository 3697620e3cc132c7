package lifecycle

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/hyve-vm/hyve/internal/control"
	"github.com/hyve-vm/hyve/internal/hint"
	"github.com/hyve-vm/hyve/internal/machine"
)

// readyFD is the descriptor on which a supervisor answers who started it, once: it writes
// nothing and closes it when its control socket answers. Otherwise it writes lockedAnswer
// where the machine has a supervisor, or one line with why it cannot begin and one with the
// way out, which may be empty.
const (
	readyFD      = 3
	lockedAnswer = "locked\n"
	maxAnswer    = 64 << 10 // bytes
)

// Inherit makes this process the supervisor that Start has started. It closes what whoever
// ran hyve had open, and returns what is to be called once with why the supervisor cannot
// begin, or nil.
func Inherit() (ready func(error), err error) {
	if err := dropInherited(); err != nil {
		return nil, err
	}
	starter := os.NewFile(readyFD, "starter")
	return func(err error) {
		defer starter.Close()
		writeAnswer(starter, err)
	}, nil
}

// dropInherited closes what was not meant for this process: a supervisor outlives its
// starter, and would keep a pipe or a lock of somebody's for days. What this process has
// opened itself is marked to be closed at an exec, so what is not is theirs.
func dropInherited() error {
	entries, err := os.ReadDir("/dev/fd")
	if err != nil {
		return fmt.Errorf("looking for inherited descriptors: %w", err)
	}
	for _, e := range entries {
		fd, err := strconv.Atoi(e.Name())
		if err != nil || fd <= readyFD {
			continue
		}
		if flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); err == nil && flags&unix.FD_CLOEXEC == 0 {
			unix.Close(fd)
		}
	}
	return nil
}

func writeAnswer(w io.Writer, err error) {
	switch {
	case err == nil:
	case errors.Is(err, machine.ErrLocked):
		io.WriteString(w, lockedAnswer)
	default:
		fmt.Fprintf(w, "%v\n%s\n", err, hint.Of(err))
	}
}

// readAnswer waits for a supervisor's answer: nil, or why it cannot begin. The error is
// machine.ErrLocked if the machine has another supervisor.
func readAnswer(r io.Reader) (*control.Failure, error) {
	b, err := io.ReadAll(io.LimitReader(r, maxAnswer))
	switch text := string(b); {
	case err != nil:
		return nil, err
	case text == lockedAnswer:
		return nil, machine.ErrLocked
	case text != "":
		cause, way, _ := strings.Cut(strings.TrimSpace(text), "\n")
		return &control.Failure{Cause: cause, Hint: way}, nil
	}
	return nil, nil
}
