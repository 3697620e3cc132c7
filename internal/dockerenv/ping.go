package dockerenv

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
)

// maxAnswer bounds what is read of an engine's answer, in bytes.
const maxAnswer = 1 << 20

// Ping asks the engine behind a unix socket for a sign of life. How long it may
// take is the context's business.
func Ping(ctx context.Context, socket string) error {
	_, err := get(ctx, socket, "/_ping")
	return err
}

// Version returns the version of the engine behind a unix socket, as "26.1.5".
func Version(ctx context.Context, socket string) (string, error) {
	body, err := get(ctx, socket, "/version")
	if err != nil {
		return "", err
	}
	var answer struct{ Version string }
	if err := json.Unmarshal(body, &answer); err != nil {
		return "", fmt.Errorf("reading the engine's version: %w", err)
	}
	if answer.Version == "" {
		return "", fmt.Errorf("reading the engine's version: none in its answer")
	}
	return answer.Version, nil
}

// get returns the body of a good answer. A bad one is an error with the
// engine's own words, which it gives as {"message": …}.
func get(ctx context.Context, socket, path string) ([]byte, error) {
	client := http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", socket)
		},
	}}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://docker"+path, nil)
	if err != nil {
		return nil, fmt.Errorf("asking the engine: %w", err)
	}
	response, err := client.Do(request)
	if err != nil {
		return nil, fmt.Errorf("asking the engine: %w", err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(io.LimitReader(response.Body, maxAnswer))
	if err != nil {
		return nil, fmt.Errorf("asking the engine: %w", err)
	}
	if response.StatusCode != http.StatusOK {
		var answer struct{ Message string }
		if json.Unmarshal(body, &answer) != nil || answer.Message == "" {
			answer.Message = strings.TrimSpace(string(body[:min(len(body), 200)]))
		}
		return nil, fmt.Errorf("asking the engine: %s: %s", response.Status, answer.Message)
	}
	return body, nil
}
