package migrate

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"time"

	"github.com/hyve-vm/hyve/internal/dockerenv"
)

// helperLabel marks the containers, and helperRepo the image, through which volumes are
// read and written. The label's value says into which machine: two migrations side by side
// leave each other's alone.
const (
	helperLabel = "dev.hyve.migrate"
	helperRepo  = "hyve-migrate"
)

// volumeDir is where such a container has its volume.
const volumeDir = "/volume"

// cleanupTime bounds how long helpers may take to go.
const cleanupTime = 15 * time.Second

// A helper makes containers with a volume in an engine. They have an image of nothing, and
// never start.
type helper struct {
	e   *engine
	tag string
}

// newHelper makes the image, and removes what a migration that was killed has left.
func newHelper(ctx context.Context, e *engine, machine string) (*helper, error) {
	sum := sha256.Sum256([]byte(machine))
	h := &helper{e, hex.EncodeToString(sum[:6])}
	if err := h.clear(ctx); err != nil {
		return nil, err
	}
	// Two blocks of zeros are an archive of nothing.
	response, err := e.Do(ctx, http.MethodPost, "/images/create", url.Values{"fromSrc": {"-"}, "repo": {helperRepo}, "tag": {h.tag}}, io.LimitReader(bytes.NewReader(make([]byte, 1024)), 1024))
	if err != nil {
		return nil, fmt.Errorf("making an empty image: %w", err)
	}
	defer response.Body.Close()
	if err := progressError(response.Body); err != nil {
		return nil, fmt.Errorf("making an empty image: %w", err)
	}
	return h, nil
}

func (h *helper) image() string { return helperRepo + ":" + h.tag }

// clear removes the helper's containers and its image, as far as they are there.
func (h *helper) clear(ctx context.Context) error {
	var containers []struct {
		ID string `json:"Id"`
	}
	filters, err := json.Marshal(map[string][]string{"label": {helperLabel + "=" + h.tag}})
	if err != nil {
		return err
	}
	query := url.Values{"all": {"1"}, "filters": {string(filters)}}
	if err := h.e.Call(ctx, http.MethodGet, "/containers/json", query, nil, &containers); err != nil {
		return err
	}
	for _, c := range containers {
		if err := h.remove(ctx, c.ID); err != nil {
			return err
		}
	}
	return notMissing(h.e.Call(ctx, http.MethodDelete, "/images/"+h.image(), nil, nil, nil))
}

// close is clear at the end, whatever has ended ctx.
func (h *helper) close(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanupTime)
	defer cancel()
	return h.clear(ctx)
}

// with calls f with a container that has the volume.
func (h *helper) with(ctx context.Context, volume string, readOnly bool, f func(id string) error) error {
	request := map[string]any{
		"Image": h.image(), "Cmd": []string{"never"}, "Labels": map[string]string{helperLabel: h.tag}, "NetworkDisabled": true,
		"HostConfig": map[string]any{"NetworkMode": "none", "Mounts": []map[string]any{{
			"Type": "volume", "Source": volume, "Target": volumeDir, "ReadOnly": readOnly, "VolumeOptions": map[string]any{"NoCopy": true},
		}}},
	}
	var made struct {
		ID string `json:"Id"`
	}
	if err := h.e.Call(ctx, http.MethodPost, "/containers/create", nil, request, &made); err != nil {
		return err
	}
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanupTime)
		defer cancel()
		h.remove(ctx, made.ID) // or else close does
	}()
	return f(made.ID)
}

// read returns the archive of a volume, whose entries are below the name of volumeDir.
func (h *helper) read(ctx context.Context, id string) (io.ReadCloser, error) {
	response, err := h.e.Do(ctx, http.MethodGet, "/containers/"+url.PathEscape(id)+"/archive", url.Values{"path": {volumeDir}}, nil)
	if err != nil {
		return nil, err
	}
	return response.Body, nil
}

// write unpacks such an archive in the root, so that the volume's own directory gets its
// owner and mode, too.
func (h *helper) write(ctx context.Context, id string, archive io.Reader) error {
	response, err := h.e.Do(ctx, http.MethodPut, "/containers/"+url.PathEscape(id)+"/archive", url.Values{"path": {"/"}}, archive)
	if err != nil {
		return err
	}
	return response.Body.Close()
}

func (h *helper) remove(ctx context.Context, id string) error {
	return notMissing(h.e.Call(ctx, http.MethodDelete, "/containers/"+url.PathEscape(id), url.Values{"force": {"1"}}, nil, nil))
}

// notMissing is err unless it says that there is no such thing.
func notMissing(err error) error {
	if refused, ok := err.(*dockerenv.APIError); ok && refused.Code == http.StatusNotFound {
		return nil
	}
	return err
}

// progressError reads the messages, one a line, of an engine that is at work, and returns
// the error among them.
func progressError(body io.Reader) error {
	for decoder := json.NewDecoder(io.LimitReader(body, maxProgress)); ; {
		var message struct{ Error string }
		err := decoder.Decode(&message)
		switch {
		case err == io.EOF:
			return nil
		case err != nil:
			return fmt.Errorf("reading what the engine says: %w", err)
		case message.Error != "":
			return &engineError{dockerenv.Printable(message.Error)}
		}
	}
}

// maxProgress bounds what an engine may say while it works, in bytes.
const maxProgress = 64 << 20

// An engineError is what an engine says has gone wrong while it worked.
type engineError struct{ message string }

func (e *engineError) Error() string { return e.message }
