package lifecycle

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/hyve-vm/hyve/internal/bounded"
	"github.com/hyve-vm/hyve/internal/control"
	"github.com/hyve-vm/hyve/internal/frozen"
	"github.com/hyve-vm/hyve/internal/guestapi"
	"github.com/hyve-vm/hyve/internal/machine"
)

// ErrAlready says that a machine was already in the state that was asked for.
var ErrAlready = errors.New("nothing to do")

// StartError says why a machine did not start.
type StartError struct {
	Name    string
	Failure control.Failure
	// Given is what it was to start with.
	Given machine.Boot
	// Removed says that the machine was new and is not there any more.
	Removed bool
}

func (e *StartError) Error() string {
	return fmt.Sprintf("starting machine %q: %v", e.Name, &e.Failure)
}

// Hint says how to go on.
func (e *StartError) Hint() string {
	given, undo := e.toEngine()
	switch {
	case e.Failure.Hint != "":
		return e.Failure.Hint
	case given != "" && e.Removed:
		return fmt.Sprintf("it was removed; its engine was given %s: create it without that, or with another value", given)
	case given != "":
		return fmt.Sprintf("its engine was given %s; to take that back: hyve set %s%s; hyve logs %[2]s shows what it said", given, e.Name, undo)
	case e.Removed:
		return fmt.Sprintf("it was removed; to see more, make it with --no-start, then: hyve start %s, hyve logs %[1]s", e.Name)
	}
	return "hyve logs " + e.Name + " shows what the machine said"
}

// toEngine is what the user has given to an engine that did not start, and the flags of hyve
// set that take it back; empty if the failure was another, or nothing was given.
func (e *StartError) toEngine() (given, undo string) {
	if e.Failure.Phase != guestapi.PhaseEngine {
		return "", ""
	}
	var all []string
	for _, one := range []struct {
		flag   string
		values []string
	}{{"--engine-opt", e.Given.EngineOptions}, {"--engine-env", e.Given.EngineEnv}} {
		if len(one.values) > 0 {
			undo += " " + one.flag + " ''"
		}
		for _, value := range one.values {
			all = append(all, one.flag+" "+value)
		}
	}
	return strings.Join(all, ", "), undo
}

// Start starts a machine and waits until its engine answers. It tells follow
// every status on the way, and returns the last. A VM that has lost its supervisor is
// ended before, an upgrade that was cut short undone. The error is ErrAlready if the machine ran, and a *StartError if it
// ended instead. If ctx ends first, a machine that this call started is stopped again,
// unless it was suspended: its containers go on with it.
func Start(ctx context.Context, m *machine.Machine, follow func(control.Status)) (control.Status, error) {
	if err := settle(m); err != nil {
		return control.Status{}, err
	}
	return start(ctx, m, false, follow)
}

// StartCold is Start of a machine that is to boot: a frozen state is dropped, also that of
// a suspended one with all that ran in it. The error is a *BusyError if the machine is not
// stopped.
func StartCold(ctx context.Context, m *machine.Machine, follow func(control.Status)) (control.Status, error) {
	status, err := ask(ctx, m.Dir())
	if err == nil && status.State == control.Running {
		return status, ErrAlready
	}
	if err := settle(m); err != nil {
		return control.Status{}, err
	}
	if err := dropFrozen(m.Dir(), m.Name, true); err != nil {
		return control.Status{}, err
	}
	return start(ctx, m, false, follow)
}

// Through returns a context for words of several steps of which the last is not to be
// missing, as the start of a restart: ctx does not end it. interrupted is called if ctx ends
// before done is called, which returns ctx's cause then.
func Through(ctx context.Context, interrupted func()) (through context.Context, done func() error) {
	stop := context.AfterFunc(ctx, interrupted)
	return context.WithoutCancel(ctx), func() error {
		stop()
		return context.Cause(ctx)
	}
}

// start is Start. A machine on a leash ends with this process.
func start(ctx context.Context, m *machine.Machine, leashed bool, follow func(control.Status)) (control.Status, error) {
	dir := m.Dir()
	status, err := ask(ctx, dir)
	switch {
	case err == nil && status.State == control.Running:
		return status, ErrAlready
	case errors.Is(err, control.ErrNoAnswer):
		if err := endOrphan(ctx, dir, m.Name); err != nil {
			return control.Status{}, err
		}
	}
	_, suspended := frozen.Exists(dir.Frozen())
	began := time.Now()
	ours, err := launch(ctx, m, leashed)
	if err != nil {
		return control.Status{}, err
	}
	client := control.NewClient(dir.ControlSocket()) // where that is the supervisor has decided
	var first, last control.Status
	err = client.Watch(ctx, func(status control.Status) bool {
		if first.State == "" {
			first = status
		}
		last = status
		follow(status)
		return status.State != control.Running && status.State != control.Stopped
	})
	switch {
	case ctx.Err() != nil:
		if ours && !suspended {
			abandon(m)
		}
		return last, context.Cause(ctx)
	case !ours && first.State == control.Stopping && last.State != control.Running:
		return start(ctx, m, leashed, follow) // its last run has ended
	case err != nil && !ours && last.State == "" && (errors.Is(err, control.ErrNoAnswer) || errors.Is(err, io.EOF)):
		return start(ctx, m, leashed, follow) // whoever had the lock has just ended
	case errors.Is(err, io.EOF), errors.Is(err, control.ErrNoAnswer):
		return last, endedEarly(m, began, endOf(dir.Log("supervisor")))
	case err != nil:
		return last, err
	case last.State == control.Running:
		return last, nil
	case last.Failure != nil:
		wanted := m.Wanted()
		return last, &StartError{Name: m.Name, Failure: *last.Failure, Given: wanted.Boot()}
	default:
		return last, &StartError{Name: m.Name, Failure: control.Failure{Cause: "it was stopped before it was ready"}}
	}
}

// launch starts the supervisor, unless one runs already, and returns when its
// control socket answers. It tells whether the supervisor is this call's.
func launch(ctx context.Context, m *machine.Machine, leashed bool) (ours bool, err error) {
	began := time.Now()
	self, err := os.Executable()
	if err == nil {
		self, err = filepath.EvalSymlinks(self)
	}
	if err != nil {
		return false, fmt.Errorf("finding hyve's own binary: %w", err)
	}
	dir := m.Dir()
	if err := os.MkdirAll(dir.Logs(), 0o700); err != nil {
		return false, fmt.Errorf("making the directory of the logs: %w", err)
	}
	log, err := openLog(dir)
	if err != nil {
		return false, err
	}
	defer log.Close()
	answer, ready, err := os.Pipe()
	if err != nil {
		return false, fmt.Errorf("starting the supervisor: %w", err)
	}
	defer answer.Close()

	cmd := exec.Command(self, "supervise", m.Name)
	cmd.Args[0] = "hyve" // whatever name this process was called by
	if leashed {
		cmd.Args = append(cmd.Args, "--leash")
		// Nobody writes to the pipe; it ends with this process.
		if _, err := cmd.StdinPipe(); err != nil {
			return false, fmt.Errorf("starting the supervisor: %w", err)
		}
	}
	cmd.Env = append(os.Environ(), "HYVE_HOME="+string(m.Home()))
	cmd.Dir = string(dir)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.ExtraFiles = []*os.File{ready} // readyFD
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	err = cmd.Start()
	ready.Close()
	if err != nil {
		return false, fmt.Errorf("starting the supervisor: %w", err)
	}
	exited := make(chan struct{})
	go func() { cmd.Wait(); close(exited) }()

	stop := context.AfterFunc(ctx, func() { answer.Close() })
	defer stop()
	failure, err := readAnswer(answer)
	switch {
	case ctx.Err() != nil:
		cmd.Process.Signal(syscall.SIGTERM)
		return true, context.Cause(ctx)
	case errors.Is(err, machine.ErrLocked):
		err := watchable(ctx, m)
		if errors.Is(err, errFree) {
			return launch(ctx, m, leashed)
		}
		return false, err
	case err != nil:
		return true, fmt.Errorf("starting the supervisor: %w", err)
	case failure != nil:
		return true, &StartError{Name: m.Name, Failure: *failure}
	}
	// An empty answer is also what a supervisor that was killed gives.
	select {
	case <-exited:
		if !cmd.ProcessState.Success() {
			return true, endedEarly(m, began, "its supervisor ended: "+cmd.ProcessState.String())
		}
	default:
	}
	return true, nil
}

// endedEarly says why a supervisor that began at a time has ended, which nobody could watch to
// its end: what it kept as the reason, or else cause. One that was killed may have left the
// reason of an older run.
func endedEarly(m *machine.Machine, began time.Time, cause string) *StartError {
	const coarse = time.Second // file systems' clocks are
	failure := &control.Failure{Cause: cause}
	if info, err := os.Stat(m.Dir().Failure()); err == nil && info.ModTime().After(began.Add(-coarse)) {
		failure = cmp.Or(control.KeptFailure(m.Dir().Failure()), failure)
	}
	return &StartError{Name: m.Name, Failure: *failure}
}

// openLog opens the supervisor's log for one that is about to start, and for what it says
// before it opens that itself.
func openLog(dir machine.Dir) (supervisor *os.File, err error) {
	held, err := dir.Held()
	if err != nil {
		return nil, err
	}
	if !held {
		if err := machine.RotateLog(dir.Log("supervisor")); err != nil {
			return nil, err
		}
	}
	supervisor, err = os.OpenFile(dir.Log("supervisor"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, fmt.Errorf("opening the supervisor's log: %w", err)
	}
	return supervisor, nil
}

// errFree says that nobody holds a machine's lock any more.
var errFree = errors.New("it has just ended")

// watchable returns nil if whoever holds the machine's lock answers, errFree if that
// has ended.
func watchable(ctx context.Context, m *machine.Machine) error {
	// The holder may have locked the machine just before us and not listen yet.
	asking, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	for asking.Err() == nil {
		if _, err := control.NewClient(m.Dir().ControlSocket()).Status(asking); err == nil {
			return nil
		}
		held, err := m.Dir().Held()
		if err != nil {
			return err
		}
		if !held {
			return errFree
		}
		time.Sleep(20 * time.Millisecond)
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return silent(m.Dir(), m.Name)
}

// abandon stops a machine whose start was given up.
func abandon(m *machine.Machine) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	client := control.NewClient(m.Dir().ControlSocket())
	if client.Stop(ctx, control.StopRequest{Kill: true}) == nil {
		client.Watch(ctx, func(s control.Status) bool { return s.State != control.Stopped })
	}
}

// endOf says how a supervisor ended that told nobody, by the last line of its log. One that
// was killed leaves only what it noted before.
func endOf(log string) string {
	data, err := bounded.Tail(log, 16<<10)
	if err != nil {
		return "its supervisor ended"
	}
	data = bytes.TrimRight(data, "\n")
	last := data[bytes.LastIndexByte(data, '\n')+1:]
	if len(last) == 0 || bytes.HasPrefix(last, []byte("time=")) {
		return "its supervisor was killed"
	}
	return "its supervisor ended: " + string(last)
}
