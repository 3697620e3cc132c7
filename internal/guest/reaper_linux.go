package guest

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

// A reaper starts every child of this process and is the only one that waits
// for them. PID 1 also inherits the orphans of the whole machine, and whoever
// waits for "any child" would steal the exit status that os/exec waits for;
// so nothing here uses exec.Cmd.Start.
type reaper struct {
	mu      sync.Mutex
	running map[int]*process
	alone   chan struct{} // has a token when there was no child left
}

// A process is a child that a reaper started.
type process struct {
	pid    int
	done   chan struct{}
	status syscall.WaitStatus // valid once done is closed
}

// newReaper returns a reaper that collects children until the program ends.
func newReaper() *reaper {
	r := &reaper{running: map[int]*process{}, alone: make(chan struct{}, 1)}
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
func (r *reaper) collect() {
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
		// start holds the lock from the fork to the registration, so a child that
		// dies at once is known here.
		r.mu.Lock()
		p := r.running[pid]
		delete(r.running, pid)
		r.mu.Unlock()
		if p != nil {
			p.status = status
			close(p.done)
		}
	}
}

// start runs argv with attr. argv[0] is looked up in PATH unless it holds a
// slash.
func (r *reaper) start(argv []string, attr *os.ProcAttr) (*process, error) {
	path, err := exec.LookPath(argv[0])
	if err != nil {
		return nil, fmt.Errorf("starting %s: %w", argv[0], err)
	}
	return r.startFile(path, argv, attr)
}

// startFile runs the program at path under the name argv[0].
func (r *reaper) startFile(path string, argv []string, attr *os.ProcAttr) (*process, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	started, err := os.StartProcess(path, argv, attr)
	if err != nil {
		return nil, fmt.Errorf("starting %s: %w", path, err)
	}
	p := &process{pid: started.Pid, done: make(chan struct{})}
	r.running[p.pid] = p
	started.Release()
	return p, nil
}

// wait returns the exit status once the process has ended.
func (p *process) wait() syscall.WaitStatus {
	<-p.done
	return p.status
}

// ended says that the process has ended.
func (p *process) ended() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

// signal sends sig to the process, or to its whole group. It does nothing once
// the process has ended and its number may be another's.
func (p *process) signal(sig syscall.Signal, group bool) {
	if p.ended() {
		return
	}
	pid := p.pid
	if group {
		pid = -pid
	}
	syscall.Kill(pid, sig)
}

// run runs argv to its end and returns what it printed. A status other than 0
// is an error that carries the output.
func (r *reaper) run(env []string, argv ...string) (string, error) {
	out, status, err := r.output(env, argv...)
	if err != nil {
		return out, err
	}
	if status.Exited() && status.ExitStatus() == 0 {
		return out, nil
	}
	return out, fmt.Errorf("running %s: %s: %s", argv[0], describeStatus(status), lastLines(out, 5))
}

// output runs argv to its end and returns what it printed and how it ended.
func (r *reaper) output(env []string, argv ...string) (string, syscall.WaitStatus, error) {
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
	p, err := r.start(argv, &os.ProcAttr{Env: env, Files: []*os.File{null, out, out}})
	out.Close()
	if err != nil {
		return "", 0, err
	}
	text := readTail(in, 64<<10)
	return text, p.wait(), nil
}

// killAll ends every process of the machine but this one: SIGTERM, then SIGKILL to
// what is left after grace. It is for PID 1, whose children all the others become.
func (r *reaper) killAll(grace time.Duration) {
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

// describeStatus says how a process ended, as one would tell a person.
func describeStatus(s syscall.WaitStatus) string {
	switch {
	case s.Exited():
		return fmt.Sprintf("exited with status %d", s.ExitStatus())
	case s.Signaled():
		return fmt.Sprintf("killed by signal %d (%s)", int(s.Signal()), s.Signal())
	}
	return fmt.Sprintf("ended with wait status %#x", uint32(s))
}
