package dockerenv

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"unicode"
)

// An Engine speaks to an engine's API.
type Engine struct {
	client *http.Client
	base   string
}

// Open returns a client of the engine. Nothing is dialled yet.
func (e Endpoint) Open() *Engine {
	transport := &http.Transport{
		DialContext:     func(ctx context.Context, _, _ string) (net.Conn, error) { return e.dial(ctx) },
		TLSClientConfig: e.TLS,
	}
	return &Engine{&http.Client{Transport: transport, CheckRedirect: noRedirect}, e.base()}
}

// noRedirect keeps an engine from sending its client elsewhere.
func noRedirect(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }

// Close closes the connections that nobody uses.
func (e *Engine) Close() { e.client.CloseIdleConnections() }

// What is read of an engine's answer at most, in bytes: of one that is taken as a whole,
// and of what it says of an error, which is printed.
const (
	maxWhole   = 64 << 20
	maxMessage = 1 << 10
)

// An APIError is an engine's refusal.
type APIError struct {
	Status  string // "404 Not Found"
	Code    int    // 404
	Message string // one printable line
}

func (e *APIError) Error() string { return e.Status + ": " + e.Message }

// Do makes a request and returns the answer, whose body the caller closes. A body of
// requests is a tar archive unless it is a *bytes.Reader, which is JSON. The error is an
// *APIError if the engine refuses.
func (e *Engine) Do(ctx context.Context, method, path string, query url.Values, body io.Reader) (*http.Response, error) {
	request, err := http.NewRequestWithContext(ctx, method, e.base+path+"?"+query.Encode(), body)
	if err != nil {
		return nil, err
	}
	switch body.(type) {
	case nil:
	case *bytes.Reader:
		request.Header.Set("Content-Type", "application/json")
	default:
		request.Header.Set("Content-Type", "application/x-tar")
	}
	response, err := e.client.Do(request)
	if err != nil {
		if refused, ok := err.(*url.Error); ok { // whose URL says nothing to anybody
			err = refused.Err
		}
		return nil, err
	}
	if response.StatusCode < 300 || response.StatusCode == http.StatusNotModified {
		return response, nil
	}
	defer response.Body.Close()
	text, err := io.ReadAll(io.LimitReader(response.Body, maxAnswer))
	if err != nil {
		return nil, err
	}
	var answer struct{ Message string }
	if json.Unmarshal(text, &answer) != nil || answer.Message == "" {
		answer.Message = string(text)
	}
	return nil, &APIError{Printable(response.Status), response.StatusCode, Printable(answer.Message)}
}

// Call makes a request with a JSON body, none if in is nil, and reads the answer's into
// out, unless that is nil.
func (e *Engine) Call(ctx context.Context, method, path string, query url.Values, in, out any) error {
	var body io.Reader
	if in != nil {
		data, err := json.Marshal(in)
		if err != nil {
			return err
		}
		body = bytes.NewReader(data)
	}
	response, err := e.Do(ctx, method, path, query, body)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	data, err := io.ReadAll(io.LimitReader(response.Body, maxWhole+1))
	switch {
	case err != nil:
		return err
	case len(data) > maxWhole:
		return fmt.Errorf("the engine's answer is larger than %d bytes", maxWhole)
	case out == nil:
		return nil
	}
	if err := json.Unmarshal(data, out); err != nil {
		return fmt.Errorf("reading the engine's answer: %w", err)
	}
	return nil
}

// Printable makes one line of what an engine, or whoever answers in its place, says: no
// character moves the cursor, and it ends somewhere.
func Printable(text string) string {
	text = strings.TrimSpace(text)
	text = strings.ToValidUTF8(text[:min(len(text), maxMessage)], "?")
	return strings.Map(func(r rune) rune {
		if !unicode.IsGraphic(r) {
			return ' '
		}
		return r
	}, text)
}
