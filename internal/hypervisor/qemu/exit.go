package qemu

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"regexp"
	"strings"
	"sync"
	"syscall"

	"github.com/hyve-vm/hyve/internal/hint"
	"github.com/hyve-vm/hyve/internal/hypervisor"
)

// marked is an error that is another one, too, which its text does not say.
type marked struct {
	error
	mark error
}

func (e *marked) Unwrap() []error { return []error{e.error, e.mark} }

// tailWriter keeps the last max bytes of what is written, and passes
// everything on to next.
type tailWriter struct {
	max  int
	next io.Writer

	mu  sync.Mutex
	buf []byte
}

func (w *tailWriter) Write(p []byte) (int, error) {
	w.mu.Lock()
	w.buf = append(w.buf, p...)
	if extra := len(w.buf) - w.max; extra > 0 {
		w.buf = append(w.buf[:0], w.buf[extra:]...)
	}
	w.mu.Unlock()
	if w.next != nil {
		// QEMU must not be held up or ended by whoever keeps its messages.
		_, _ = w.next.Write(p)
	}
	return len(p), nil
}

// cause is the last message that says what went wrong: QEMU ends with it.
// Warnings and the hints that follow an error are passed over.
func (w *tailWriter) cause() string {
	w.mu.Lock()
	lines := bytes.Split(bytes.Clone(w.buf), []byte{'\n'})
	w.mu.Unlock()
	var last, hint string
	for _, raw := range lines {
		line := strings.TrimSpace(stripProgram(strings.ToValidUTF8(string(raw), "?")))
		switch {
		case line == "" || strings.HasPrefix(line, "warning:") || strings.HasPrefix(line, "info:"):
		case strings.HasPrefix(line, "Is another process using the image"):
			hint = line
		default:
			last = line
		}
	}
	if hint != "" {
		last += "; " + hint
	}
	return last
}

// stripProgram takes "qemu-system-x86_64: " and the option that QEMU quotes,
// "-device {…}: ", off a message.
func stripProgram(line string) string {
	name, rest, ok := strings.Cut(line, ": ")
	if !ok || strings.ContainsAny(name, " \t") || !strings.Contains(name, "qemu") {
		return line
	}
	return rest
}

// exitCause turns the end of the process into Err's answer. The caller holds
// vm.mu.
func (vm *VM) exitCause(waitErr error) error {
	said := vm.fds.named(vm.stderr.cause())
	var exit *exec.ExitError
	switch {
	case waitErr == nil || errors.Is(waitErr, exec.ErrWaitDelay):
		if vm.shutdown.Reason == ReasonGuestPanic {
			return errors.New("the guest's kernel panicked")
		}
		// Told to end by SIGTERM and the like QEMU does so cleanly.
		if strings.HasPrefix(said, "terminating on signal") && !vm.quit {
			return &marked{errors.New("QEMU was ended by a signal: " + said), hypervisor.ErrKilled}
		}
		return nil
	case !errors.As(waitErr, &exit):
		return fmt.Errorf("waiting for QEMU: %w", waitErr)
	}
	if status, ok := exit.Sys().(syscall.WaitStatus); ok && status.Signaled() {
		if vm.quit {
			return nil
		}
		err := fmt.Errorf("QEMU was ended by a signal: %s", status.Signal())
		if s := status.Signal(); s == syscall.SIGABRT || s == syscall.SIGSEGV {
			err = &marked{fmt.Errorf("QEMU crashed: %s", s), hypervisor.ErrCrashed}
		}
		err = &marked{err, hypervisor.ErrKilled}
		if said != "" { // perhaps long ago, a warning for instance
			err = fmt.Errorf("%w; its last words: %s", err, said)
		}
		if status.Signal() == syscall.SIGKILL {
			return hint.With(err, "if nobody did that, the host was short of memory; give the machine less")
		}
		return err
	}
	if said == "" {
		return fmt.Errorf("QEMU ended with status %d and said nothing", exit.ExitCode())
	}
	return readable(said)
}

// translations of the messages that users do meet, from QEMU 7.2 and 10.0.
var translations = []struct {
	pattern *regexp.Regexp
	text    string // a replacement template
	hint    string
}{
	{
		regexp.MustCompile(`^.*Failed to get (?:shared )?"[a-z-]+" lock; Is another process using the image \[?(.*?)\]?\?$`),
		"disk $1 is in use by another process",
		"another VM runs on it; stop that one first",
	},
	{
		regexp.MustCompile(`^.*[Cc]annot set up guest memory '[^']*': (.*)$`),
		"the host cannot provide the VM's memory: $1",
		"give the machine less memory",
	},
	{
		regexp.MustCompile(`^.*Could not access KVM kernel module: (.*)$`),
		"the kernel's KVM cannot be used: $1",
		"",
	},
	{
		regexp.MustCompile(`^.*Could not open '(.*)': (.*)$`),
		"opening $1: $2",
		"",
	},
}

// readable says in plain words what QEMU says, where that is known.
func readable(said string) error {
	for _, t := range translations {
		if m := t.pattern.FindStringSubmatchIndex(said); m != nil {
			return hint.With(errors.New(string(t.pattern.ExpandString(nil, t.text, said, m))), t.hint)
		}
	}
	return errors.New(said)
}
