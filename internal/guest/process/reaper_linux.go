package process

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"sync"
	"syscall"
	"time"
)

// A Reaper starts every child of this process and is the only one that waits
// for them. PID 1 also inherits the orphans of the whole machine, and whoever
// waits for "any child" would steal the exit status that os/exec waits for;
// so nothing here uses exec.Cmd.Start.
type Reaper struct {
	mu      sync.Mutex
	running map[int]*Process
	alone   chan struct{} // has a token when there was no child left
}

// A Process is a child that a reaper started.
type Process struct {
	PID    int
	Done   chan struct{}      // closed once it has ended
	status syscall.WaitStatus // valid from then on
}

// New returns a reaper that collects children until the program ends.
func New() *Reaper {
	r := &Reaper{running: map[int]*Process{}, alone: make(chan struct{}, 1)}
	died := make(chan os.Signal, 1)
	signal.Notify(died, syscall.SIGCHLD)
	go func() {
		for range died {
			r.collect()
		}
	}()
	return r
}

// collect takes every exit status that is there. One signal may stand for
// several deaths.
func (r *Reaper) collect() {
	for {
		var status syscall.WaitStatus
		pid, err := syscall.Wait4(-1, &status, syscall.WNOHANG, nil)
		if errors.Is(err, syscall.EINTR) {
			continue
		}
		if errors.Is(err, syscall.ECHILD) {
			select {
			case r.alone <- struct{}{}:
			default:
			}
			return
		}
		if err != nil || pid <= 0 {
			return
		}
		// StartFile holds the lock from the fork to the registration, so a child that
		// dies at once is known here.
		r.mu.Lock()
		p := r.running[pid]
		delete(r.running, pid)
		r.mu.Unlock()
		if p != nil {
			p.status = status
			close(p.Done)
		}
	}
}

// Start runs argv with attr. argv[0] is looked up in PATH unless it holds a
// slash.
func (r *Reaper) Start(argv []string, attr *os.ProcAttr) (*Process, error) {
	path, err := exec.LookPath(argv[0])
	if err != nil {
		return nil, fmt.Errorf("starting %s: %w", argv[0], err)
	}
	return r.StartFile(path, argv, attr)
}

// StartFile runs the program at path under the name argv[0].
func (r *Reaper) StartFile(path string, argv []string, attr *os.ProcAttr) (*Process, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	started, err := os.StartProcess(path, argv, attr)
	if err != nil {
		return nil, fmt.Errorf("starting %s: %w", path, err)
	}
	p := &Process{PID: started.Pid, Done: make(chan struct{})}
	r.running[p.PID] = p
	started.Release()
	return p, nil
}

// Wait returns the exit status once the process has ended.
func (p *Process) Wait() syscall.WaitStatus {
	<-p.Done
	return p.status
}

// Ended says that the process has Ended.
func (p *Process) Ended() bool {
	select {
	case <-p.Done:
		return true
	default:
		return false
	}
}

// Signal sends sig to the process, or to its whole group. It does nothing once
// the process has ended and its number may be another's.
func (p *Process) Signal(sig syscall.Signal, group bool) {
	if p.Ended() {
		return
	}
	pid := p.PID
	if group {
		pid = -pid
	}
	syscall.Kill(pid, sig)
}

// Run runs argv to its end and returns what it printed. A status other than 0
// is an error that carries the output.
func (r *Reaper) Run(env []string, argv ...string) (string, error) {
	out, status, err := r.Output(env, argv...)
	if err != nil {
		return out, err
	}
	if status.Exited() && status.ExitStatus() == 0 {
		return out, nil
	}
	return out, fmt.Errorf("running %s: %s: %s", argv[0], Describe(status), LastLines(out, 5))
}

// Output runs argv to its end and returns what it printed and how it ended.
func (r *Reaper) Output(env []string, argv ...string) (string, syscall.WaitStatus, error) {
	null, err := os.Open(os.DevNull)
	if err != nil {
		return "", 0, err
	}
	defer null.Close()
	in, out, err := os.Pipe()
	if err != nil {
		return "", 0, fmt.Errorf("running %s: %w", argv[0], err)
	}
	defer in.Close()
	p, err := r.Start(argv, &os.ProcAttr{Env: env, Files: []*os.File{null, out, out}})
	out.Close()
	if err != nil {
		return "", 0, err
	}
	text := readTail(in, 64<<10)
	return text, p.Wait(), nil
}

// KillAll ends every process of the machine but this one: SIGTERM, then SIGKILL to
// what is left after grace. It is for PID 1, whose children all the others become.
func (r *Reaper) KillAll(grace time.Duration) {
	for _, sig := range []syscall.Signal{syscall.SIGTERM, syscall.SIGKILL} {
		select {
		case <-r.alone: // of an earlier time
		default:
		}
		syscall.Kill(-1, sig)
		syscall.Kill(-1, syscall.SIGCONT)
		r.collect()
		select {
		case <-r.alone:
			return
		case <-time.After(grace):
		}
	}
}

// Describe says how a process ended, as one would tell a person.
func Describe(s syscall.WaitStatus) string {
	switch {
	case s.Exited():
		return fmt.Sprintf("exited with status %d", s.ExitStatus())
	case s.Signaled():
		return fmt.Sprintf("killed by signal %d (%s)", int(s.Signal()), s.Signal())
	}
	return fmt.Sprintf("ended with wait status %#x", uint32(s))
}
