package supervisor

import (
	"context"
	"errors"
	"os"
	"os/signal"
	"syscall"

	"github.com/hyve-vm/hyve/internal/control"
)

// answerWords serves the control socket. The returned function waits until
// those who watch have heard the end.
func (s *supervisor) answerWords() (told func()) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := control.Serve(ctx, door(maxWords, 32, s.log).Listener(s.sockets.control), s); err != nil {
			s.log.Error("control socket", "error", err)
		}
	}()
	return func() { cancel(); <-done }
}

// Status implements control.Supervisor.
func (s *supervisor) Status() (control.Status, <-chan struct{}) { return s.board.get() }

// Stop implements control.Supervisor.
func (s *supervisor) Stop(ctx context.Context, request control.StopRequest) error {
	if request.Suspend {
		if status, _ := s.board.get(); status.State == control.Running {
			if reason := s.resources.noFreeze(); reason != "" {
				return errors.New(reason)
			}
		}
		return s.inbox.ask(ctx, message{kind: wordSuspend})
	}
	s.log.Info("asked to stop", "kill", request.Kill, "freeze", request.Freeze)
	kind := wordStop
	if request.Kill {
		kind = wordKill
	}
	err := s.inbox.ask(context.WithoutCancel(ctx), message{kind: kind, stop: request})
	if errors.Is(err, errNotRunning) { // any more
		return nil
	}
	return err
}

// Copy implements control.Supervisor.
func (s *supervisor) Copy(ctx context.Context, request control.CopyRequest) error {
	return s.inbox.ask(ctx, message{kind: wordCopy, dir: request.Dir})
}

// stopOnSignal shuts the machine down when the host does.
func (s *supervisor) stopOnSignal() {
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT)
	signal.Ignore(syscall.SIGHUP)
	go func() {
		for range signals {
			s.Stop(context.Background(), control.StopRequest{})
		}
	}()
}
