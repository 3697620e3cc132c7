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

	"github.com/hyve-vm/hyve/internal/private"
)

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
	err := c.post(ctx, "/stop", request)
	switch {
	case err == nil:
		return nil
	case request.Suspend:
		return fmt.Errorf("suspending the machine: %w", err)
	}
	return fmt.Errorf("asking the machine to stop: %w", err)
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
