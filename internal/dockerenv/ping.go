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
const maxAnswer = 64 << 10

// Ping asks the engine behind a unix socket for a sign of life and returns its
// version, as "26.1.5", which every answer of an engine carries (/version itself
// would have it run containerd's and runc's). How long it may take is the context's
// business.
func Ping(ctx context.Context, socket string) (version string, err error) {
	client := http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", socket)
		},
	}}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://docker/_ping", nil)
	if err != nil {
		return "", fmt.Errorf("asking the engine: %w", err)
	}
	response, err := client.Do(request)
	if err != nil {
		return "", fmt.Errorf("asking the engine: %w", err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(io.LimitReader(response.Body, maxAnswer))
	if err != nil {
		return "", fmt.Errorf("asking the engine: %w", err)
	}
	if response.StatusCode != http.StatusOK {
		var answer struct{ Message string }
		if json.Unmarshal(body, &answer) != nil || answer.Message == "" {
			answer.Message = strings.TrimSpace(string(body[:min(len(body), 200)]))
		}
		return "", fmt.Errorf("asking the engine: %s: %s", response.Status, answer.Message)
	}
	// "Docker/26.1.5+dfsg1 (linux)"
	server, _, _ := strings.Cut(response.Header.Get("Server"), " ")
	version, ok := strings.CutPrefix(server, "Docker/")
	if !ok {
		return "", fmt.Errorf("asking the engine: the answer is not an engine's but of %q", server)
	}
	return version, nil
}
