package qemu

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// QMP is QEMU's monitor for programs: JSON, one message a line. The server
// greets, the client negotiates with qmp_capabilities, then sends commands with
// an id; answers carry that id, events come at any time in between.
// https://www.qemu.org/docs/master/interop/qmp-spec.html

// maxQMPMessage bounds one message, in bytes. The longest known answer, to
// query-qmp-schema, is about 200 KiB.
const maxQMPMessage = 4 << 20

// eventBacklog is how many events wait for a reader; later ones are dropped.
// A guest whose disk is failing can cause them without end.
const eventBacklog = 256

// ErrMonitorClosed is the error of a command that QEMU did not answer because
// its end of the monitor is gone.
var ErrMonitorClosed = errors.New("QEMU's monitor is closed")

// QMPError is QEMU's refusal of a command.
type QMPError struct {
	Command string `json:"-"`
	Class   string `json:"class"`
	Desc    string `json:"desc"`
}

func (e *QMPError) Error() string { return fmt.Sprintf("QEMU's %s: %s", e.Command, e.Desc) }

// Event is something that QEMU reports unasked.
type Event struct {
	Name string          // as in QEMU's documentation: "SHUTDOWN", "BLOCK_IO_ERROR"
	Time time.Time       // by the host's clock
	Data json.RawMessage // an object, or nil
}

// The events on which a supervisor may act.
const (
	EventShutdown     = "SHUTDOWN"       // Data: ShutdownData
	EventResume       = "RESUME"         // a paused VM goes on
	EventBlockIOError = "BLOCK_IO_ERROR" // Data: BlockIOErrorData
)

// ShutdownData is the Data of an EventShutdown.
type ShutdownData struct {
	Guest  bool   `json:"guest"`  // the guest asked for it
	Reason string `json:"reason"` // one of the Reason constants, or another
}

// Reasons of a SHUTDOWN, QEMU's ShutdownCause.
const (
	ReasonGuestShutdown = "guest-shutdown"
	ReasonGuestReset    = "guest-reset"
	ReasonGuestPanic    = "guest-panic"
	ReasonHostQuit      = "host-qmp-quit"
)

// BlockIOErrorData is the Data of an EventBlockIOError.
type BlockIOErrorData struct {
	Node      string `json:"node-name"` // the disk's serial
	Operation string `json:"operation"` // "read", "write"
	Action    string `json:"action"`    // "stop": the VM waits for "cont"; "report", "ignore"
	NoSpace   bool   `json:"nospace"`   // the host's disk is full
	Reason    string `json:"reason"`
}

// Client is one QMP connection. Its methods may be called from any goroutine.
type Client struct {
	conn     io.ReadWriteCloser
	greeting chan struct{} // closed by the greeting
	events   chan Event
	done     chan struct{} // closed when the connection has ended

	mu      sync.Mutex // of what follows, and of writing
	nextID  uint64
	pending map[uint64]chan qmpMessage
	closed  error
}

// newClient reads conn until its end.
func newClient(conn io.ReadWriteCloser) *Client {
	c := &Client{
		conn:     conn,
		greeting: make(chan struct{}),
		events:   make(chan Event, eventBacklog),
		done:     make(chan struct{}),
		pending:  make(map[uint64]chan qmpMessage),
	}
	go c.read()
	return c
}

// Events is closed when the connection has ended. Events for which nobody reads
// are dropped after the first 256.
func (c *Client) Events() <-chan Event { return c.events }

// Done is closed when the connection has ended.
func (c *Client) Done() <-chan struct{} { return c.done }

// Close ends the connection. QEMU goes on without it.
func (c *Client) Close() error { return c.conn.Close() }

// handshake waits for the greeting and negotiates. QEMU greets early, but takes
// commands only once the whole machine has been built: an answer means that
// every argument was accepted.
func (c *Client) handshake(ctx context.Context) error {
	select {
	case <-c.greeting:
	case <-c.done:
		return ErrMonitorClosed
	case <-ctx.Done():
		return ctx.Err()
	}
	return c.Execute(ctx, "qmp_capabilities", nil, nil)
}

// Execute runs a command and decodes what it returns into result, unless that
// is nil. Arguments are any value that encodes to a JSON object, or nil. An
// error is a *QMPError, ErrMonitorClosed or ctx's.
func (c *Client) Execute(ctx context.Context, command string, arguments, result any) error {
	return c.ExecuteWithFile(ctx, command, arguments, nil, result)
}

// ExecuteWithFile is Execute with an open file sent beside the command, for
// "getfd" and "add-fd": under -sandbox spawn=deny QEMU cannot run the "exec:cat"
// to which older ones migrate, but it can write to a descriptor. The connection
// must be a unix socket.
func (c *Client) ExecuteWithFile(ctx context.Context, command string, arguments any, file *os.File, result any) error {
	id, answer, err := c.send(command, arguments, file)
	if err != nil {
		return fmt.Errorf("sending %s to QEMU: %w", command, err)
	}
	select {
	case m, ok := <-answer:
		if !ok {
			return fmt.Errorf("waiting for QEMU's %s: %w", command, ErrMonitorClosed)
		}
		return m.decode(command, result)
	case <-ctx.Done():
		c.mu.Lock()
		delete(c.pending, id)
		c.mu.Unlock()
		return fmt.Errorf("waiting for QEMU's %s: %w", command, ctx.Err())
	}
}

func (c *Client) send(command string, arguments any, file *os.File) (uint64, <-chan qmpMessage, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed != nil {
		return 0, nil, c.closed
	}
	c.nextID++
	id := c.nextID
	line, err := json.Marshal(struct {
		Execute   string `json:"execute"`
		Arguments any    `json:"arguments,omitempty"`
		ID        uint64 `json:"id"`
	}{command, arguments, id})
	if err != nil {
		return 0, nil, err
	}
	answer := make(chan qmpMessage, 1)
	c.pending[id] = answer
	if err := c.write(append(line, '\n'), file); err != nil {
		delete(c.pending, id)
		return 0, nil, fmt.Errorf("%w (%w)", ErrMonitorClosed, err)
	}
	return id, answer, nil
}

func (c *Client) write(line []byte, file *os.File) error {
	if file == nil {
		_, err := c.conn.Write(line)
		return err
	}
	conn, ok := c.conn.(*net.UnixConn)
	if !ok {
		return errors.New("a file can be sent over a unix socket only")
	}
	_, _, err := conn.WriteMsgUnix(line, unix.UnixRights(int(file.Fd())), nil)
	return err
}

// read hands out messages until the connection ends.
func (c *Client) read() {
	scanner := bufio.NewScanner(c.conn)
	scanner.Buffer(make([]byte, 0, 16<<10), maxQMPMessage)
	greeted := false
	for scanner.Scan() {
		m, err := parseQMP(scanner.Bytes())
		if err != nil {
			break // not QMP, or out of step: nothing after it can be trusted
		}
		switch {
		case m.greeting && !greeted:
			greeted = true
			close(c.greeting)
		case m.event != nil:
			select {
			case c.events <- *m.event:
			default:
			}
		case m.hasID:
			c.answer(m)
		}
	}
	_ = c.conn.Close()
	c.mu.Lock()
	c.closed = ErrMonitorClosed
	for id, answer := range c.pending {
		delete(c.pending, id)
		close(answer)
	}
	c.mu.Unlock()
	close(c.events)
	close(c.done)
}

func (c *Client) answer(m qmpMessage) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if answer, ok := c.pending[m.id]; ok {
		delete(c.pending, m.id)
		answer <- m
	}
}

// qmpMessage is one line from QEMU: a greeting, an event or an answer.
type qmpMessage struct {
	greeting bool
	event    *Event
	hasID    bool
	id       uint64
	result   json.RawMessage // an answer's, unless refused is set
	refused  *QMPError
}

// parseQMP reads one line.
func parseQMP(line []byte) (qmpMessage, error) {
	var raw struct {
		QMP       json.RawMessage `json:"QMP"`
		Event     *string         `json:"event"`
		Data      json.RawMessage `json:"data"`
		Timestamp struct {
			Seconds      int64 `json:"seconds"`
			Microseconds int64 `json:"microseconds"`
		} `json:"timestamp"`
		Return json.RawMessage `json:"return"`
		Error  *QMPError       `json:"error"`
		ID     *uint64         `json:"id"`
	}
	if err := json.Unmarshal(line, &raw); err != nil {
		return qmpMessage{}, fmt.Errorf("reading a QMP message: %w", err)
	}
	m := qmpMessage{result: bytes.Clone(raw.Return), refused: raw.Error}
	if raw.ID != nil {
		m.hasID, m.id = true, *raw.ID
	}
	switch {
	case raw.QMP != nil:
		m.greeting = true
	case raw.Event != nil:
		at := time.Unix(raw.Timestamp.Seconds, 0).Add(time.Duration(raw.Timestamp.Microseconds) * time.Microsecond)
		m.event = &Event{Name: *raw.Event, Time: at, Data: bytes.Clone(raw.Data)}
	case raw.Return == nil && raw.Error == nil:
		return qmpMessage{}, errors.New("reading a QMP message: neither greeting, event nor answer")
	}
	return m, nil
}

func (m qmpMessage) decode(command string, result any) error {
	if m.refused != nil {
		m.refused.Command = command
		return m.refused
	}
	if result == nil {
		return nil
	}
	if err := json.Unmarshal(m.result, result); err != nil {
		return fmt.Errorf("reading the answer to QEMU's %s: %w", command, err)
	}
	return nil
}
