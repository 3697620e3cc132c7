package control

import (
	"context"
	"errors"
	"io"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// fake is a supervisor whose status tests change.
type fake struct {
	mu      sync.Mutex
	status  Status
	changed chan struct{}
	stopped []StopRequest
	copied  []CopyRequest
	refuse  error
}

func (f *fake) Status() (Status, <-chan struct{}) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.status, f.changed
}

func (f *fake) Stats(context.Context) (Stats, error) { return Stats{NetworkIn: 7}, f.refuse }

func (f *fake) Reload(context.Context) error { return f.refuse }

func (f *fake) Identify(context.Context) error { return f.refuse }

func (f *fake) Stop(_ context.Context, r StopRequest) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.stopped = append(f.stopped, r)
	return f.refuse
}

func (f *fake) Copy(_ context.Context, r CopyRequest) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.copied = append(f.copied, r)
	return f.refuse
}

func (f *fake) become(state State) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.status.State = state
	close(f.changed)
	f.changed = make(chan struct{})
}

func serve(t *testing.T) (*fake, *Client, context.CancelFunc) {
	socket := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	f := &fake{status: Status{State: Starting}, changed: make(chan struct{})}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- Serve(ctx, l, f) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return f, NewClient(socket), cancel
}

func TestWatchHearsEveryState(t *testing.T) {
	f, client, _ := serve(t)
	var heard []State
	err := client.Watch(t.Context(), func(s Status) bool {
		heard = append(heard, s.State)
		switch s.State {
		case Starting:
			f.become(Running)
		case Running:
			f.become(Stopped)
		}
		return s.State != Stopped
	})
	if err != nil || len(heard) != 3 {
		t.Errorf("heard %v, %v", heard, err)
	}
}

// Whoever watches when a supervisor ends hears its last word.
func TestServeEndsAfterTheLastWord(t *testing.T) {
	f, client, end := serve(t)
	var last State
	err := client.Watch(t.Context(), func(s Status) bool {
		last = s.State
		if s.State == Starting {
			f.become(Stopped)
			end()
		}
		return true
	})
	if last != Stopped || !errors.Is(err, io.EOF) {
		t.Errorf("last word %q, %v", last, err)
	}
}

func TestStop(t *testing.T) {
	f, client, _ := serve(t)
	if err := client.Stop(t.Context(), StopRequest{Kill: true}); err != nil {
		t.Error(err)
	}
	f.refuse = errors.New("not now")
	if err := client.Stop(t.Context(), StopRequest{}); err == nil || !strings.Contains(err.Error(), "not now") {
		t.Error("a refusal is not passed on")
	}
	if len(f.stopped) != 2 || !f.stopped[0].Kill || f.stopped[1].Kill {
		t.Errorf("heard %v", f.stopped)
	}
}

func TestStats(t *testing.T) {
	f, client, _ := serve(t)
	if stats, err := client.Stats(t.Context()); err != nil || stats.NetworkIn != 7 {
		t.Errorf("Stats() = %v, %v", stats, err)
	}
	f.refuse = errors.New("no idea")
	if _, err := client.Stats(t.Context()); err == nil || !strings.Contains(err.Error(), "no idea") {
		t.Errorf("Stats() = %v", err)
	}
}

func TestCopy(t *testing.T) {
	f, client, _ := serve(t)
	if err := client.Copy(t.Context(), CopyRequest{Dir: "/there"}); err != nil {
		t.Error(err)
	}
	f.refuse = errors.New("no room")
	if err := client.Copy(t.Context(), CopyRequest{}); err == nil || !strings.Contains(err.Error(), "no room") {
		t.Error("a refusal is not passed on")
	}
	if len(f.copied) != 2 || f.copied[0].Dir != "/there" {
		t.Errorf("heard %v", f.copied)
	}
}

func TestNoAnswer(t *testing.T) {
	client := NewClient(filepath.Join(t.TempDir(), "s"))
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	if _, err := client.Status(ctx); !errors.Is(err, ErrNoAnswer) {
		t.Errorf("Status() = %v", err)
	}
}

// A supervisor that is killed while it is asked has not answered.
func TestKilledWhileAsked(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "control.sock")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		conn, err := l.Accept()
		if err == nil {
			conn.Read(make([]byte, 1))
			conn.Close()
		}
	}()
	if _, err := NewClient(socket).Status(t.Context()); !errors.Is(err, ErrNoAnswer) {
		t.Errorf("got %v", err)
	}
}

func TestIdentify(t *testing.T) {
	f, client, _ := serve(t)
	if err := client.Identify(t.Context()); err != nil {
		t.Error(err)
	}
	f.refuse = errors.New("not now")
	if err := client.Identify(t.Context()); err == nil || err.Error() != "giving the machine its certificates: not now" {
		t.Error(err)
	}
}
