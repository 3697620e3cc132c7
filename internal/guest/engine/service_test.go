//go:build linux

package engine

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/hyve-vm/hyve/internal/guest/outbox/outboxtest"
	"github.com/hyve-vm/hyve/internal/guest/process"
	"github.com/hyve-vm/hyve/internal/guestapi"
)

// testReaper is the test binary's only one: two would take each other's children.
var testReaper = process.New()

func newTestService(t *testing.T, script string) (*service, context.CancelFunc) {
	t.Helper()
	s := &service{
		name: "test", phase: guestapi.PhaseEngine, runDir: t.TempDir(), reaper: testReaper, out: outboxtest.New(),
		policy:  restartPolicy{first: time.Millisecond, most: 4 * time.Millisecond, attempts: 3, proved: time.Hour},
		command: func() ([]string, []string, error) { return []string{"/bin/sh", "-c", script}, os.Environ(), nil },
	}
	s.hopeless = refused
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(func() { cancel(); s.stop(time.Second) })
	s.up()
	go s.supervise(ctx)
	return s, cancel
}

func TestServiceThatCannotStart(t *testing.T) {
	s, _ := newTestService(t, "echo first; echo no such flag >&2; exit 7")
	e := outboxtest.Next(t, s.out, func(e guestapi.Event) bool { return e.Failed != nil })
	if c := e.Failed.Cause.String(); !strings.HasPrefix(c, "test exited with status 7: ") || !strings.Contains(c, "no such flag") || !strings.Contains(c, "after 3 attempts") {
		t.Errorf("the cause is %q", c)
	}
	if err := s.awaitReady(10 * time.Second); err == nil || !strings.Contains(err.Error(), "given up") {
		t.Errorf("who waits for it hears %v", err)
	}
}

// notifyScript tells of its readiness as sd_notify(3) does, which needs a
// datagram socket: the test binary does it in the shell's stead.
func TestMain(m *testing.M) {
	if len(os.Args) == 2 && os.Args[1] == "notify" {
		conn, err := syscall.Socket(syscall.AF_UNIX, syscall.SOCK_DGRAM, 0)
		if err == nil {
			err = syscall.Sendto(conn, []byte("STATUS=x\nREADY=1\n"), 0, &syscall.SockaddrUnix{Name: os.Getenv("NOTIFY_SOCKET")})
		}
		if err != nil {
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func TestServiceLife(t *testing.T) {
	marks := t.TempDir()
	ready := make(chan struct{}, 10)
	// sleep is exec'd: a signal must reach what holds the pipe.
	s := &service{
		name: "test", phase: guestapi.PhaseEngine, runDir: t.TempDir(), reaper: testReaper, out: outboxtest.New(),
		policy: restartPolicy{first: time.Millisecond, most: time.Millisecond, attempts: 3, proved: time.Hour},
		command: func() ([]string, []string, error) {
			return []string{"/bin/sh", "-c", `echo started >> "$MARKS/log"; "$SELF" notify; exec sleep 100`},
				append(os.Environ(), "SELF="+os.Args[0], "MARKS="+marks), nil
		},
		onReady: func() { ready <- struct{}{} },
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	s.up()
	go s.supervise(ctx)
	await := func(what string, c <-chan struct{}) {
		t.Helper()
		select {
		case <-c:
		case <-time.After(10 * time.Second):
			t.Fatalf("not %s", what)
		}
	}
	await("ready", ready)
	state, _ := s.watch()
	syscall.Kill(state.current.PID, syscall.SIGKILL)
	e := outboxtest.Next(t, s.out, func(e guestapi.Event) bool { return e.Failed != nil })
	if !strings.HasPrefix(e.Failed.Cause.String(), "test killed by signal 9 (killed)") || strings.Contains(e.Failed.Cause.String(), "attempts") {
		t.Errorf("the cause is %q", e.Failed.Cause)
	}
	await("ready again", ready)
	if err := s.restart(5 * time.Second); err != nil {
		t.Error(err)
	}
	await("restarted", ready)
	if err := s.stop(5 * time.Second); err != nil {
		t.Error(err)
	}
	if state, _ := s.watch(); state.current != nil {
		t.Error("it runs after stop")
	}
	s.out.Logf("mark")
	e = outboxtest.Next(t, s.out, func(e guestapi.Event) bool {
		return e.Failed != nil || e.Log != nil && e.Log.Line.String() == "mark"
	})
	if e.Failed != nil {
		t.Errorf("an end that was asked for is told as a failure: %+v", *e.Failed)
	}
	s.up()
	await("started again", ready)
	s.stop(5 * time.Second)
	if b, _ := os.ReadFile(filepath.Join(marks, "log")); strings.Count(string(b), "started") != 4 {
		t.Errorf("started %d times, want 4", strings.Count(string(b), "started"))
	}
}

func TestServiceStopKills(t *testing.T) {
	s, _ := newTestService(t, `trap "" TERM; echo up; while :; do sleep 0.05; done`)
	outboxtest.Next(t, s.out, func(e guestapi.Event) bool { return e.Log != nil && e.Log.Line.String() == "up" })
	if err := s.stop(50 * time.Millisecond); err == nil || !strings.Contains(err.Error(), "50ms") {
		t.Errorf("stop = %v", err)
	}
}

func TestPause(t *testing.T) {
	p := restartPolicy{first: 250 * time.Millisecond, most: 2 * time.Second}
	for n, want := range map[int]time.Duration{1: 250 * time.Millisecond, 2: 500 * time.Millisecond, 4: 2 * time.Second, 1000: 2 * time.Second} {
		if got := p.pause(n); got != want {
			t.Errorf("pause(%d) = %v, want %v", n, got, want)
		}
	}
}
