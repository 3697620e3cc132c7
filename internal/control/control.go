// Package control is how the words speak to a machine's supervisor: HTTP and
// JSON over a unix socket in the machine's directory.
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
	"strings"
	"time"

	"github.com/google/renameio/v2"

	"github.com/hyve-vm/hyve/internal/bounded"
	"github.com/hyve-vm/hyve/internal/private"
)

// State is what a machine does.
type State string

// The states of a machine. Stopped, Suspended, Unresponsive and Broken are derived where no
// supervisor answers; a supervisor reports the others.
const (
	Starting     State = "Starting"
	Running      State = "Running"
	Stopping     State = "Stopping"
	Stopped      State = "Stopped"
	Suspended    State = "Suspended"    // stopped, with containers that run on at its start
	Unresponsive State = "Unresponsive" // its lock is held, but nobody answers
	Broken       State = "Broken"       // its file cannot be used
)

// Status is what a supervisor knows of its machine.
type Status struct {
	State State `json:"state"`
	// Activity is what a starting or stopping machine does, for people.
	Activity string `json:"activity,omitempty"`
	// Failure is why the machine could not start, or what broke in it since.
	Failure *Failure `json:"failure,omitempty"`

	PID          int       `json:"pid"`           // the supervisor
	HypervisorID int       `json:"hypervisorPid"` // 0 before it runs
	Started      time.Time `json:"started"`

	Hypervisor  string `json:"hypervisor,omitempty"`  // name and version
	Accelerator string `json:"accelerator,omitempty"` // "kvm", "hvf", "tcg"
	// AcceleratorReason says why a better accelerator is not used.
	AcceleratorReason string `json:"acceleratorReason,omitempty"`
	// Unconfined is what a hypervisor that was taken over by its guest is not kept from on
	// this host, each one line; empty where it is kept from everything that it can be.
	Unconfined    []string `json:"unconfined,omitempty"`
	EngineVersion string   `json:"engineVersion,omitempty"`

	// Asleep says of a running machine that its VM is frozen until a client connects.
	Asleep bool `json:"asleep,omitempty"`

	// Frozen says of a stopped machine that its next start goes on from a frozen state.
	Frozen bool `json:"frozen"`
	// Thawed says that the machine went on from a frozen state instead of booting.
	// BootReason says why not, where there was one to go on from, or it cannot be.
	Thawed bool `json:"thawed"`
	// MemoryShared says of a thawed machine that it has in memory of its own only what
	// its guest has changed since, and shares the rest with those thawed from the same.
	MemoryShared bool   `json:"memoryShared,omitempty"`
	BootReason   string `json:"bootReason,omitempty"`

	Endpoints Endpoints `json:"endpoints"`
	Ports     []Port    `json:"ports"`    // published now, in order
	Problems  []string  `json:"problems"` // each one line, worth knowing now
	Timing    []Step    `json:"timing"`   // of the start
}

// Failure is why something went wrong.
type Failure struct {
	Phase string `json:"phase"`
	Cause string `json:"cause"`
	Hint  string `json:"hint,omitempty"`
}

// maxCause bounds each part of a failure, in bytes: somebody else may have said it.
const maxCause = 8 << 10

// Bounded returns the failure with each of its parts cut to what people read.
func (f *Failure) Bounded() *Failure {
	cut := func(s string) string {
		if len(s) > maxCause {
			s = strings.ToValidUTF8(s[:maxCause], "") + "…"
		}
		return s
	}
	return &Failure{Phase: cut(f.Phase), Cause: cut(f.Cause), Hint: cut(f.Hint)}
}

// Keep writes a failure to a file, for those who ask when the supervisor is
// gone.
func (f *Failure) Keep(path string) error {
	data, err := json.Marshal(f.Bounded())
	if err != nil {
		return err
	}
	return renameio.WriteFile(path, data, 0o600)
}

// KeptFailure returns the failure in a file, nil if there is none.
func KeptFailure(path string) *Failure {
	data, err := bounded.ReadFile(path, bounded.MaxDocument)
	if err != nil {
		return nil
	}
	f := new(Failure)
	if json.Unmarshal(data, f) != nil {
		return nil
	}
	return f.Bounded()
}

func (f *Failure) Error() string {
	if f.Phase == "" {
		return f.Cause
	}
	return f.Phase + ": " + f.Cause
}

// Endpoints are where the machine answers on the host.
type Endpoints struct {
	Docker string `json:"docker"` // unix:///…
	TCP    string `json:"tcp"`    // tcp://ADDRESS:2376, mutual TLS
	SSH    string `json:"ssh"`    // ADDRESS:22 or unix:///…
}

// Port is a published port.
type Port struct {
	Protocol string `json:"protocol"`
	Address  string `json:"address"` // on the host
	Port     uint16 `json:"port"`
}

// Step is one step of a start, and when it ended.
type Step struct {
	Name string `json:"name"`
	// At is the time since the start began.
	At time.Duration `json:"at"`
}

// A Supervisor answers requests.
type Supervisor interface {
	// Status returns the machine's status now, and a channel that is closed when it
	// has changed.
	Status() (Status, <-chan struct{})
	// Stop asks the machine to stop; it waits for a suspension alone.
	Stop(context.Context, StopRequest) error
	// Reload reads the machine's file again and waits until the machine has what can
	// change while it runs; one that starts or is asleep gets it when it is up.
	Reload(context.Context) error
	// Identify reads the machine's keys and certificates again and waits until the
	// running guest has them; one that is asleep gets them when it wakes.
	Identify(context.Context) error
	// Stats measures what the machine uses.
	Stats(context.Context) (Stats, error)
	// Copy makes a copy of the running machine and waits for it; ctx ends the wait.
	Copy(ctx context.Context, request CopyRequest) error
	// Examine has the running guest note what it is or, after a thaw, look whether it is still
	// that. The error says what is wrong.
	Examine(ctx context.Context, request ExamineRequest) error
}

// Stats is what a running machine uses now. Sizes are in bytes.
type Stats struct {
	At time.Time `json:"at"`
	// CPUTime is what its processes have used since they started. The hypervisor's is
	// gone when it is: at a reboot, and when the machine falls asleep.
	CPUTime time.Duration `json:"cpuTime"`
	// HostMemoryOwn is what would be free without the machine, HostMemoryShared what
	// its processes share with others.
	HostMemoryOwn    int64 `json:"hostMemoryOwn"`
	HostMemoryShared int64 `json:"hostMemoryShared"`
	// GuestMemory as the guest sees it; 0 while it is asleep.
	GuestMemoryTotal int64 `json:"guestMemoryTotal"`
	GuestMemoryUsed  int64 `json:"guestMemoryUsed"`
	// NetworkIn went to the guest, NetworkOut came from it, Ethernet frames counted.
	NetworkIn  int64 `json:"networkIn"`
	NetworkOut int64 `json:"networkOut"`
}

// CopyRequest says where a copy of a machine goes.
type CopyRequest struct {
	// Dir is a machine's directory that has neither disk nor frozen state. It gets
	// both, the latter where machines are frozen.
	Dir string `json:"dir"`
}

// ExamineRequest says whether a guest is about to be frozen, or was thawed.
type ExamineRequest struct {
	// Noted is when a guest that was thawed has noted what it is; zero if it is to do so now.
	Noted time.Time `json:"noted,omitzero"`
}

// StopRequest says how to stop.
type StopRequest struct {
	// Kill ends the machine at once, like a power cut.
	Kill bool `json:"kill,omitempty"`
	// Sync lets a guest that answers within a second write to its disk before it is killed.
	Sync bool `json:"sync,omitempty"`
	// Freeze stops the containers and freezes the machine, so that its next start
	// is a thaw. Where that cannot be, it shuts down.
	Freeze bool `json:"freeze,omitempty"`
	// Suspend freezes the machine with everything that runs in it, or changes
	// nothing.
	Suspend bool `json:"suspend,omitempty"`
}

// lastWord bounds how long those who watch may take to hear the last status.
const lastWord = time.Second

// A status that changes more often than watchBurst times, as no machine's does that is
// well, is told once in watchPause.
const (
	watchBurst = 200
	watchPause = 50 * time.Millisecond
)

// Serve answers on l until ctx ends. Whoever watches hears a status of Stopped
// before it returns.
func Serve(ctx context.Context, l net.Listener, s Supervisor) error {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /status", func(w http.ResponseWriter, r *http.Request) {
		status, _ := s.Status()
		w.Header().Set("Content-Type", "application/json")
		json.NewEncoder(w).Encode(status)
	})
	mux.HandleFunc("GET /watch", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/x-ndjson")
		flush := http.NewResponseController(w)
		for sent := 0; ; sent++ {
			if sent > watchBurst {
				time.Sleep(watchPause)
			}
			status, changed := s.Status()
			if json.NewEncoder(w).Encode(status) != nil || flush.Flush() != nil || status.State == Stopped {
				return
			}
			select {
			case <-changed:
			case <-r.Context().Done():
				return
			}
		}
	})
	mux.HandleFunc("GET /stats", func(w http.ResponseWriter, r *http.Request) {
		stats, err := s.Stats(r.Context())
		if err != nil {
			http.Error(w, err.Error(), http.StatusConflict)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		json.NewEncoder(w).Encode(stats)
	})
	mux.HandleFunc("POST /stop", act(s.Stop))
	mux.HandleFunc("POST /copy", act(s.Copy))
	mux.HandleFunc("POST /examine", act(s.Examine))
	mux.HandleFunc("POST /reload", act(func(ctx context.Context, _ struct{}) error { return s.Reload(ctx) }))
	mux.HandleFunc("POST /identify", act(func(ctx context.Context, _ struct{}) error { return s.Identify(ctx) }))
	server := &http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second}
	done := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(done)
		last, cancel := context.WithTimeout(context.Background(), lastWord)
		defer cancel()
		server.Shutdown(last)
		server.Close()
	})
	if err := server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		stop()
		return fmt.Errorf("serving the control socket: %w", err)
	}
	<-done
	return nil
}

// act makes a handler of what a request asks for.
func act[Request any](do func(context.Context, Request) error) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		var request Request
		err := json.NewDecoder(http.MaxBytesReader(w, r.Body, 64<<10)).Decode(&request)
		if err == nil {
			err = do(r.Context(), request)
		}
		if err != nil {
			http.Error(w, err.Error(), http.StatusConflict)
		}
	}
}

// ErrNoAnswer says that no supervisor listens, or that it ended before it answered.
var ErrNoAnswer = errors.New("no supervisor answers")

// Client asks a supervisor.
type Client struct{ http *http.Client }

// NewClient returns a client of the supervisor at a socket.
func NewClient(socket string) *Client {
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		return private.Dial(ctx, socket)
	}
	return &Client{&http.Client{Transport: &http.Transport{DialContext: dial, DisableKeepAlives: true}}}
}

// Status returns the machine's status now.
func (c *Client) Status(ctx context.Context) (Status, error) {
	var status Status
	if err := c.get(ctx, "/status", &status); err != nil {
		return status, fmt.Errorf("asking for the status: %w", err)
	}
	return status, nil
}

// Stats returns what the machine uses now.
func (c *Client) Stats(ctx context.Context) (Stats, error) {
	var stats Stats
	if err := c.get(ctx, "/stats", &stats); err != nil {
		return stats, fmt.Errorf("asking what the machine uses: %w", err)
	}
	return stats, nil
}

func (c *Client) get(ctx context.Context, path string, into any) error {
	body, err := c.do(ctx, "GET", path, nil)
	if err != nil {
		return err
	}
	defer body.Close()
	return json.NewDecoder(io.LimitReader(body, maxStatus)).Decode(into)
}

// Watch calls f with the machine's status now and at every change, until f
// returns false. The error is io.EOF if the supervisor ended first.
func (c *Client) Watch(ctx context.Context, f func(Status) bool) error {
	body, err := c.do(ctx, "GET", "/watch", nil)
	if err != nil {
		return fmt.Errorf("watching the machine: %w", err)
	}
	defer body.Close()
	lines := bufio.NewReaderSize(body, 64<<10)
	for {
		line, err := readLine(lines)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil {
			return io.EOF // however it ended, it ended
		}
		var status Status
		if err := json.Unmarshal(line, &status); err != nil {
			return fmt.Errorf("watching the machine: %w", err)
		}
		if !f(status) {
			return nil
		}
	}
}

// maxStatus bounds what is taken of a supervisor's answer, in bytes. A status has a
// kilobyte, and a hundred more for each published port.
const maxStatus = 1 << 20

// readLine returns the next line. One of more than maxStatus ends the conversation.
func readLine(r *bufio.Reader) (line []byte, err error) {
	for {
		part, err := r.ReadSlice('\n')
		if line = append(line, part...); len(line) > maxStatus {
			return nil, errors.New("reading a status: it is too long")
		}
		if !errors.Is(err, bufio.ErrBufferFull) {
			return line, err
		}
	}
}

// Stop asks the machine to stop; it does not wait for it.
func (c *Client) Stop(ctx context.Context, request StopRequest) error {
	if err := c.post(ctx, "/stop", request); err != nil {
		return fmt.Errorf("asking the machine to stop: %w", err)
	}
	return nil
}

// Reload has the supervisor read the machine's file again.
func (c *Client) Reload(ctx context.Context) error {
	if err := c.post(ctx, "/reload", struct{}{}); err != nil {
		return fmt.Errorf("telling the running machine: %w", err)
	}
	return nil
}

// Identify gives the running machine its keys and certificates again.
func (c *Client) Identify(ctx context.Context) error {
	if err := c.post(ctx, "/identify", struct{}{}); err != nil {
		return fmt.Errorf("giving the machine its certificates: %w", err)
	}
	return nil
}

// Copy makes a copy of the running machine and waits for it.
func (c *Client) Copy(ctx context.Context, request CopyRequest) error {
	if err := c.post(ctx, "/copy", request); err != nil {
		return fmt.Errorf("copying the running machine: %w", err)
	}
	return nil
}

// Examine has the running guest note what it is, or say what is wrong with it: the error.
func (c *Client) Examine(ctx context.Context, request ExamineRequest) error {
	return c.post(ctx, "/examine", request)
}

func (c *Client) post(ctx context.Context, path string, request any) error {
	data, err := json.Marshal(request)
	if err != nil {
		return err
	}
	body, err := c.do(ctx, "POST", path, data)
	if err != nil {
		return err
	}
	return body.Close()
}

func (c *Client) do(ctx context.Context, method, path string, data []byte) (io.ReadCloser, error) {
	request, err := http.NewRequestWithContext(ctx, method, "http://supervisor"+path, bytes.NewReader(data))
	if err != nil {
		return nil, err
	}
	response, err := c.http.Do(request)
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrNoAnswer, err)
	}
	if response.StatusCode != http.StatusOK {
		defer response.Body.Close()
		text, _ := io.ReadAll(io.LimitReader(response.Body, 4<<10))
		return nil, fmt.Errorf("%s", bytes.TrimSpace(text))
	}
	return response.Body, nil
}
