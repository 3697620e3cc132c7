package engine

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/hyve-vm/hyve/internal/guest/outbox"
	"github.com/hyve-vm/hyve/internal/guest/process"
	"github.com/hyve-vm/hyve/internal/guest/publish"
	"github.com/hyve-vm/hyve/internal/guestapi"
)

// A restartPolicy bounds how often a service that dies is started again.
type restartPolicy struct {
	first, most time.Duration // pause before the first restart, doubled up to most
	attempts    int           // that many deaths in a row without becoming ready end it
	// A service that was ready for this long has proved itself: the count and
	// the pause begin anew.
	proved time.Duration
}

var defaultPolicy = restartPolicy{first: 250 * time.Millisecond, most: 10 * time.Second, attempts: 3, proved: time.Minute}

// pause returns how long to wait before the nth restart in a row, n from 1.
func (p restartPolicy) pause(n int) time.Duration {
	d := p.first
	for ; n > 1 && d < p.most; n-- {
		d *= 2
	}
	return min(d, p.most)
}

// A service is a program that PID 1 keeps running. It says itself when it is
// ready, in the way of sd_notify(3).
type service struct {
	name   string // one of guestapi's Service constants
	phase  string // one of guestapi's Phase constants, named by failures
	runDir string // where its notify socket is
	cgroup string // directory; empty leaves it in PID 1's
	score  int    // oom_score_adj
	policy restartPolicy
	reaper *process.Reaper
	gate   *publish.BindGate // asked before it binds; nil for who may bind anything
	out    *outbox.Outbox
	// command returns what to run; it is asked at every start.
	command func() (argv, env []string, err error)
	// onReady is called, in a goroutine of its own, each time that it is ready.
	onReady func()
	// onEnd is called each time that it has ended; it may be nil.
	onEnd func()
	// hopeless tells of the line that says why the service ended whether another attempt
	// would be the same; nil never does.
	hopeless func(cause string) bool

	tail tail

	starting sync.Mutex // held from the decision to start until state says so
	mu       sync.Mutex
	state    serviceState
	changed  chan struct{} // closed and replaced when state changes
}

type serviceState struct {
	wanted  bool
	current *process.Process // nil while it does not run, and once it was told to end
	ready   bool
}

func (s *service) change(f func(*serviceState)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f(&s.state)
	if s.changed != nil {
		close(s.changed)
	}
	s.changed = make(chan struct{})
}

// watch returns the present state and a channel that closes when it is another.
func (s *service) watch() (serviceState, <-chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.changed == nil {
		s.changed = make(chan struct{})
	}
	return s.state, s.changed
}

// supervise starts the service and starts it again when it dies, until ctx ends.
// After that it is left running: stop ends it.
func (s *service) supervise(ctx context.Context) {
	failures := 0
	for ctx.Err() == nil {
		state, changed := s.watch()
		if !state.wanted {
			select {
			case <-changed:
			case <-ctx.Done():
			}
			failures = 0
			continue
		}
		began := time.Now()
		ready, cause, why := s.once()
		state, changed = s.watch()
		if cause == "" || !state.wanted {
			continue // it ended because it was told to
		}
		if ready && time.Since(began) > s.policy.proved {
			failures = 0
		}
		failures++
		giveUp := failures >= s.policy.attempts || !ready && s.hopeless != nil && s.hopeless(why)
		if giveUp && failures > 1 {
			cause = fmt.Sprintf("%s (given up after %d attempts)", cause, failures)
		}
		s.report(cause, ready, giveUp) // before awaitReady says that it was given up
		if giveUp {
			s.change(func(st *serviceState) { st.wanted = false })
			continue
		}
		select {
		case <-time.After(s.policy.pause(failures)):
		case <-changed:
		case <-ctx.Done():
		}
	}
}

// report tells the host of a death. One during the start is tried again and is
// worth a line in the log only, until the last attempt.
func (s *service) report(cause string, wasReady, giveUp bool) {
	s.out.Logf("%s", cause)
	if wasReady || giveUp {
		s.out.Put(guestapi.Event{Failed: &guestapi.Failed{Phase: guestapi.NewText(s.phase), Cause: guestapi.NewProse(cause)}})
	}
}

// once runs the service to its end. cause is one line, empty if it was told to end; why is
// what it has said itself of that.
func (s *service) once() (ready bool, cause, why string) {
	notify, err := s.listenNotify()
	if err != nil {
		return false, brief(err.Error()), ""
	}
	defer notify.Close()
	p, drained, err := s.start()
	if err != nil {
		return false, brief(err.Error()), ""
	}
	if p == nil {
		return false, "", ""
	}
	go s.followNotify(notify, p)
	status := p.Wait()
	var told bool
	s.change(func(st *serviceState) {
		told, ready = st.current != p, st.ready
		st.current, st.ready = nil, false
	})
	if s.onEnd != nil {
		s.onEnd()
	}
	if told {
		return ready, "", ""
	}
	// One of the last lines says why, and may still be on their way. A child that was
	// left behind can hold the pipe open for ever.
	select {
	case <-drained:
	case <-time.After(time.Second):
	}
	cause = s.name + " " + process.Describe(status)
	if why = telling(s.tail.last(keptLines)); why != "" {
		cause += ": " + why
	}
	return ready, cause, why
}

// start starts the process, unless it is no longer wanted, and reads its output from
// then on; drained closes at the output's end.
func (s *service) start() (p *process.Process, drained chan struct{}, err error) {
	s.starting.Lock()
	defer s.starting.Unlock()
	if state, _ := s.watch(); !state.wanted {
		return nil, nil, nil
	}
	argv, env, err := s.command()
	if err != nil {
		return nil, nil, err
	}
	null, err := os.Open(os.DevNull)
	if err != nil {
		return nil, nil, err
	}
	defer null.Close()
	in, out, err := os.Pipe()
	if err != nil {
		return nil, nil, fmt.Errorf("starting %s: %w", s.name, err)
	}
	attr := &os.ProcAttr{
		Dir: "/", Env: append(env, "NOTIFY_SOCKET="+s.notifyPath()),
		Files: []*os.File{null, out, out},
		Sys:   &syscall.SysProcAttr{Setsid: true},
	}
	if s.cgroup != "" {
		dir, err := os.Open(s.cgroup)
		if err != nil {
			return nil, nil, fmt.Errorf("starting %s: %w", s.name, err)
		}
		defer dir.Close()
		attr.Sys.UseCgroupFD, attr.Sys.CgroupFD = true, int(dir.Fd())
	}
	if s.gate != nil {
		p, err = s.gate.Start(s.reaper, argv, attr)
	} else {
		p, err = s.reaper.Start(argv, attr)
	}
	out.Close()
	if err != nil {
		in.Close()
		return nil, nil, err
	}
	if s.score != 0 {
		os.WriteFile("/proc/"+strconv.Itoa(p.PID)+"/oom_score_adj", []byte(strconv.Itoa(s.score)), 0)
	}
	s.tail.clear()
	drained = make(chan struct{})
	go func() {
		defer close(drained)
		defer in.Close()
		readLines(in, s.line)
	}()
	s.change(func(st *serviceState) { st.current, st.ready = p, false })
	return p, drained, nil
}

func (s *service) line(text string) {
	s.tail.add(text)
	s.out.Log(s.name, text)
}

func (s *service) notifyPath() string { return filepath.Join(s.runDir, "notify-"+s.name) }

func (s *service) listenNotify() (*net.UnixConn, error) {
	path := s.notifyPath()
	os.Remove(path)
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		return nil, fmt.Errorf("listening for the readiness of %s: %w", s.name, err)
	}
	if err := os.Chmod(path, 0o600); err != nil {
		conn.Close()
		return nil, fmt.Errorf("listening for the readiness of %s: %w", s.name, err)
	}
	return conn, nil
}

// followNotify reads the notifications of p until the socket is closed.
func (s *service) followNotify(conn *net.UnixConn, p *process.Process) {
	buf := make([]byte, 4<<10)
	ready := false
	for {
		n, err := conn.Read(buf)
		if err != nil {
			return
		}
		for field := range strings.Lines(string(buf[:n])) {
			if strings.TrimSpace(field) == "READY=1" && !ready {
				ready = true
				s.change(func(st *serviceState) { st.ready = st.current == p })
				if s.onReady != nil {
					go s.onReady()
				}
			}
		}
	}
}

// up asks for the service to run.
func (s *service) up() { s.change(func(st *serviceState) { st.wanted = true }) }

// awaitReady waits until the service is ready, at most for bound.
func (s *service) awaitReady(bound time.Duration) error {
	timeout := time.NewTimer(bound)
	defer timeout.Stop()
	for {
		state, changed := s.watch()
		switch {
		case state.ready:
			return nil
		case !state.wanted:
			return fmt.Errorf("starting %s: given up; its log says why", s.name)
		}
		select {
		case <-changed:
		case <-timeout.C:
			return fmt.Errorf("starting %s: not ready after %v", s.name, bound)
		}
	}
}

// signal sends sig to the service if it runs.
func (s *service) signal(sig syscall.Signal) {
	if state, _ := s.watch(); state.current != nil {
		state.current.Signal(sig, false)
	}
}

// stop ends the service and waits for its end: SIGTERM, and SIGKILL after bound.
func (s *service) stop(bound time.Duration) error { return s.end(false, bound) }

// restart ends the service; supervise starts it again.
func (s *service) restart(bound time.Duration) error { return s.end(true, bound) }

func (s *service) end(again bool, bound time.Duration) error {
	s.starting.Lock()
	var p *process.Process
	s.change(func(st *serviceState) {
		p = st.current // its absence tells once that the end is wanted
		*st = serviceState{wanted: again}
	})
	s.starting.Unlock()
	if p == nil {
		return nil
	}
	p.Signal(syscall.SIGTERM, false)
	timeout := time.NewTimer(bound)
	defer timeout.Stop()
	select {
	case <-p.Done:
		return nil
	case <-timeout.C:
	}
	p.Signal(syscall.SIGKILL, false)
	<-p.Done
	return fmt.Errorf("stopping %s: killed, still running after %v", s.name, bound)
}
