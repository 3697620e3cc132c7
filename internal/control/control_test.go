package control

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// fake is a supervisor whose status tests change.
type fake struct {
	mu       sync.Mutex
	status   Status
	changed  chan struct{}
	stopped  []StopRequest
	copied   []CopyRequest
	examined []ExamineRequest
	refuse   error
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

func (f *fake) Examine(_ context.Context, r ExamineRequest) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.examined = append(f.examined, r)
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
	socket := filepath.Join(privateDir(t), "s")
	l, err := listen(socket)
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
	if err := client.Stop(t.Context(), StopRequest{Suspend: true}); err == nil || err.Error() != "suspending the machine: not now" {
		t.Errorf("a refused suspend: %v", err)
	}
	if len(f.stopped) != 3 || !f.stopped[0].Kill || f.stopped[1].Kill {
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

func TestExamine(t *testing.T) {
	f, client, _ := serve(t)
	noted := time.Now().Round(0)
	if err := errors.Join(client.Examine(t.Context(), ExamineRequest{}), client.Examine(t.Context(), ExamineRequest{Noted: noted})); err != nil {
		t.Error(err)
	}
	f.refuse = errors.New("its clock stands")
	if err := client.Examine(t.Context(), ExamineRequest{Noted: noted}); err == nil || err.Error() != "its clock stands" {
		t.Errorf("what is wrong is %v", err)
	}
	if len(f.examined) != 3 || !f.examined[0].Noted.IsZero() || !f.examined[1].Noted.Equal(noted) {
		t.Errorf("heard %v", f.examined)
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
	socket := filepath.Join(privateDir(t), "control.sock")
	l, err := listen(socket)
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

// What a file says that somebody else may have written is a failure, bounded, or none.
func FuzzKeptFailure(f *testing.F) {
	f.Add([]byte(`{"phase":"engine","cause":"x","hint":"y"}`))
	f.Add([]byte(`{"cause":"` + strings.Repeat("x", 3*maxCause) + `"}`))
	f.Add([]byte(strings.Repeat("[", 100_000)))
	f.Add([]byte(`null`))
	path := filepath.Join(f.TempDir(), "failure.json")
	f.Fuzz(func(t *testing.T, data []byte) {
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		failure := KeptFailure(path)
		if failure == nil {
			return
		}
		if len(failure.Error()) > 2*maxCause+16 || len(failure.Hint) > maxCause+8 {
			t.Errorf("a failure of %d bytes", len(failure.Error()))
		}
		if err := failure.Keep(path); err != nil {
			t.Fatal(err)
		}
		if again := KeptFailure(path); again == nil || len(again.Error()) > 2*maxCause+16 {
			t.Errorf("kept, %q is %v", failure, again)
		}
	})
}

// Whatever is sent to a supervisor, it does what a whole request asks for, or nothing, and
// answers the next one.
func FuzzRequests(f *testing.F) {
	for _, request := range []string{`{"kill":true}`, `{"suspend":true}{"kill":true}`, `{"freeze":"x"}`, `{"dir":"/m"}`, `null`, strings.Repeat("[", 20_000)} {
		f.Add(true, []byte(request))
		f.Add(false, []byte(request))
	}
	f.Fuzz(func(t *testing.T, stops bool, body []byte) {
		path := "/copy"
		if stops {
			path = "/stop"
		}
		supervisor, client, stop := serve(t)
		defer stop()
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		conn, err := client.http.Transport.(*http.Transport).DialContext(ctx, "", "")
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		fmt.Fprintf(conn, "POST %s HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%s", path, len(body), body)
		conn.(interface{ CloseWrite() error }).CloseWrite()
		conn.SetReadDeadline(time.Now().Add(5 * time.Second))
		if answer, err := io.ReadAll(conn); errors.Is(err, os.ErrDeadlineExceeded) || len(answer) > 4<<10 {
			t.Errorf("%d bytes, %v", len(answer), err)
		}
		if _, err := client.Status(ctx); err != nil {
			t.Error(err)
		}
		supervisor.mu.Lock()
		defer supervisor.mu.Unlock()
		if n := len(supervisor.stopped) + len(supervisor.copied); n > 1 || n == 1 && json.NewDecoder(bytes.NewReader(body)).Decode(new(any)) != nil {
			t.Errorf("%d things are done", n)
		}
	})
}

// A supervisor that answers anything at all ends the conversation, nothing else.
func FuzzAnswers(f *testing.F) {
	f.Add([]byte("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nnull"))
	f.Add([]byte("HTTP/1.1 200 OK\r\n\r\n{\"state\":\"Running\"}\n{\"state\":"))
	f.Add([]byte("HTTP/1.1 409 Conflict\r\n\r\n\x1b]0;x\a"))
	f.Add([]byte("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nffffffff\r\n{"))
	f.Fuzz(func(t *testing.T, answer []byte) {
		client := &Client{&http.Client{Transport: &http.Transport{DisableKeepAlives: true,
			DialContext: func(context.Context, string, string) (net.Conn, error) {
				ours, theirs := net.Pipe()
				go func() {
					go io.Copy(io.Discard, theirs)
					theirs.Write(answer)
					theirs.Close()
				}()
				return ours, nil
			}}}}
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		client.Status(ctx)
		client.Stats(ctx)
		client.Watch(ctx, func(Status) bool { return true })
		client.Stop(ctx, StopRequest{})
		if ctx.Err() != nil {
			t.Error("it waits")
		}
	})
}

// An answer without an end is not kept.
func TestEndlessAnswer(t *testing.T) {
	line := bufio.NewReader(io.MultiReader(strings.NewReader("{"), zeroes{}))
	if _, err := readLine(line); err == nil {
		t.Error("a line of zeroes has come to its end")
	}
}

type zeroes struct{}

func (zeroes) Read(p []byte) (int, error) { return len(p), nil }

func privateDir(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	return dir
}

// listen listens as a supervisor does.
func listen(socket string) (net.Listener, error) {
	l, err := net.Listen("unix", socket)
	if err != nil {
		return nil, err
	}
	return l, os.Chmod(socket, 0o600)
}

// A supervisor that somebody else may be is none.
func TestOpenSocketIsNotBelieved(t *testing.T) {
	socket := filepath.Join(privateDir(t), "s")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if _, err := NewClient(socket).Status(t.Context()); !errors.Is(err, ErrNoAnswer) || !strings.Contains(err.Error(), "no private socket") {
		t.Error(err)
	}
}
