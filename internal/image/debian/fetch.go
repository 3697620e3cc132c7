package debian

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"

	"golang.org/x/sync/singleflight"

	"github.com/hyve-vm/hyve/internal/hint"
)

// Limits bound how long a mirror may take. The zero value of a field means its
// default.
type Limits struct {
	Connect  time.Duration // to connect, and to shake hands; default 10 s
	Header   time.Duration // until the answer's header; default 20 s
	Stall    time.Duration // in which at least MinBytes must arrive; default 30 s
	MinBytes int64         // default 16 KiB
	Tries    int           // per file and mirror; default 4
	Backoff  time.Duration // before the second try, doubled for each further one; default 500 ms
}

func (l Limits) withDefaults() Limits {
	set := func(d *time.Duration, v time.Duration) {
		if *d == 0 {
			*d = v
		}
	}
	set(&l.Connect, 10*time.Second)
	set(&l.Header, 20*time.Second)
	set(&l.Stall, 30*time.Second)
	set(&l.Backoff, 500*time.Millisecond)
	if l.MinBytes == 0 {
		l.MinBytes = 16 << 10
	}
	if l.Tries == 0 {
		l.Tries = 4
	}
	return l
}

// parallel is the number of downloads at a time.
const parallel = 8

var errNotFound = errors.New("not found (404)")

// A fetcher downloads files into a cache that is keyed by SHA-256.
type fetcher struct {
	client *http.Client
	limits Limits
	dir    string
	blobs  singleflight.Group // two suites' indices can be the same file, for example empty
}

func newFetcher(dir string, limits Limits) *fetcher {
	limits = limits.withDefaults()
	dialer := &net.Dialer{Timeout: limits.Connect}
	return &fetcher{
		dir:    dir,
		limits: limits,
		client: &http.Client{Transport: &http.Transport{
			Proxy:                 http.ProxyFromEnvironment,
			DialContext:           dialer.DialContext,
			TLSHandshakeTimeout:   limits.Connect,
			ResponseHeaderTimeout: limits.Header,
			MaxIdleConnsPerHost:   parallel,
			IdleConnTimeout:       limits.Stall,
			DisableCompression:    true, // sizes and digests are those of the file itself
			ForceAttemptHTTP2:     true,
		}},
	}
}

func (f *fetcher) close() { f.client.CloseIdleConnections() }

// get returns a small file of at most max bytes.
func (f *fetcher) get(ctx context.Context, url string, max int64) ([]byte, error) {
	var buf bytes.Buffer
	err := f.retry(ctx, url, func() error {
		buf.Reset()
		return f.request(ctx, url, 0, max, func(int64) (io.Writer, error) { return &buf, nil }, nil)
	})
	return buf.Bytes(), err
}

// blob returns the path of the cached file with that digest, downloading it
// from the first of urls that has it. got is told of bytes as they arrive, and
// of what has to be fetched again as negative ones.
func (f *fetcher) blob(ctx context.Context, urls []string, want Digest, got func(n int64)) (string, error) {
	file, err, _ := f.blobs.Do(want.SHA256, func() (any, error) { return f.load(ctx, urls, want, got) })
	if err != nil {
		return "", err
	}
	return file.(string), nil
}

func (f *fetcher) load(ctx context.Context, urls []string, want Digest, got func(n int64)) (string, error) {
	file := f.blobPath(want)
	switch ok, err := matches(file, want); {
	case err != nil:
		return "", err
	case ok:
		now := time.Now()
		_ = os.Chtimes(file, now, now) // only for Prune
		got(want.Size)
		return file, nil
	}
	partial := filepath.Join(f.dir, "partial", want.SHA256)
	for _, d := range []string{filepath.Dir(file), filepath.Dir(partial)} {
		if err := os.MkdirAll(d, 0o700); err != nil {
			return "", fmt.Errorf("making the download cache: %w", err)
		}
	}
	var errs []error
	for _, url := range urls {
		err := f.retry(ctx, url, func() error { return f.resume(ctx, url, partial, want, got) })
		if err == nil {
			if err := os.Rename(partial, file); err != nil {
				return "", fmt.Errorf("keeping a download: %w", err)
			}
			return file, nil
		}
		errs = append(errs, err)
		if ctx.Err() != nil {
			break
		}
	}
	return "", joinLine(errs)
}

func (f *fetcher) blobPath(d Digest) string {
	return filepath.Join(f.dir, "sha256", d.SHA256[:2], d.SHA256)
}

// resume downloads what partial lacks and checks the whole.
func (f *fetcher) resume(ctx context.Context, url, partial string, want Digest, got func(int64)) error {
	out, err := os.OpenFile(partial, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return fmt.Errorf("making a download: %w", err)
	}
	defer out.Close()
	have, err := out.Seek(0, io.SeekEnd)
	if err != nil {
		return fmt.Errorf("reading a partial download: %w", err)
	}
	if have > want.Size {
		have = 0
	}
	var counted int64
	count := func(n int64) { counted += n; got(n) }
	count(have)
	if have < want.Size || want.Size == 0 {
		err = f.request(ctx, url, have, want.Size, func(start int64) (io.Writer, error) {
			if start != have {
				count(start - have)
			}
			if err := out.Truncate(start); err != nil {
				return nil, err
			}
			_, err := out.Seek(start, io.SeekStart)
			return out, err
		}, count)
	}
	if err == nil {
		err = f.check(out, url, want)
	}
	if err != nil {
		got(-counted)
		return err
	}
	return out.Close()
}

// check compares a finished download with its digest; one that differs is
// emptied, so that the next try starts over.
func (f *fetcher) check(out *os.File, url string, want Digest) error {
	h := sha256.New()
	if _, err := out.Seek(0, io.SeekStart); err != nil {
		return err
	}
	n, err := io.Copy(h, out)
	if err != nil {
		return fmt.Errorf("reading a download: %w", err)
	}
	if n == want.Size && hex.EncodeToString(h.Sum(nil)) == want.SHA256 {
		return nil
	}
	if err := out.Truncate(0); err != nil {
		return err
	}
	if n != want.Size {
		return fmt.Errorf("downloading %s: it has %d bytes, not %d", url, n, want.Size)
	}
	return hint.With(fmt.Errorf("downloading %s: its SHA-256 is not the signed one", url),
		"the mirror is being updated or damaged; try again, or choose another with --mirror")
}

// request asks for url from byte start on and copies the answer, of at most
// max bytes in all, into what open returns for the offset the server chose.
func (f *fetcher) request(ctx context.Context, url string, start, max int64, open func(start int64) (io.Writer, error), got func(int64)) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return fmt.Errorf("downloading: %w", err)
	}
	req.Header.Set("User-Agent", "hyve")
	if start > 0 {
		req.Header.Set("Range", fmt.Sprintf("bytes=%d-", start))
	}
	resp, err := f.client.Do(req)
	if err != nil {
		return fmt.Errorf("downloading: %w", err) // net/http names method and URL
	}
	defer resp.Body.Close()
	switch resp.StatusCode {
	case http.StatusOK, http.StatusRequestedRangeNotSatisfiable:
		start = 0
	case http.StatusPartialContent:
	case http.StatusNotFound:
		return fmt.Errorf("downloading %s: %w", url, errNotFound)
	default:
		return statusError{url, resp.StatusCode}
	}
	w, err := open(start)
	if err != nil {
		return fmt.Errorf("keeping a download: %w", err)
	}
	if resp.StatusCode == http.StatusRequestedRangeNotSatisfiable {
		return statusError{url, http.StatusServiceUnavailable} // emptied: try again from the start
	}
	err = f.copy(cancel, w, resp.Body, url, max-start, got)
	var stalled stallError
	if err != nil && errors.As(context.Cause(ctx), &stalled) {
		return fmt.Errorf("downloading %s: %w", url, stalled)
	}
	return err
}

// copy copies at most max bytes and gives up when they arrive too slowly.
func (f *fetcher) copy(cancel context.CancelCauseFunc, w io.Writer, body io.Reader, url string, max int64, got func(int64)) error {
	var arrived atomic.Int64
	done := make(chan struct{})
	defer close(done)
	go func() {
		tick := time.NewTicker(f.limits.Stall)
		defer tick.Stop()
		for last := int64(0); ; {
			select {
			case <-done:
				return
			case <-tick.C:
			}
			now := arrived.Load()
			if now-last < f.limits.MinBytes {
				cancel(stallError{f.limits})
				return
			}
			last = now
		}
	}()
	src := &countingReader{r: io.LimitReader(body, max+1), n: &arrived, got: got}
	n, err := io.Copy(w, src)
	switch {
	case n > max:
		return fmt.Errorf("downloading %s: it is larger than %d bytes", url, max)
	case err != nil:
		return fmt.Errorf("downloading %s: %w", url, err)
	}
	return nil
}

type countingReader struct {
	r   io.Reader
	n   *atomic.Int64
	got func(int64)
}

func (c *countingReader) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n.Add(int64(n))
	if c.got != nil && n > 0 {
		c.got(int64(n))
	}
	return n, err
}

type stallError struct{ l Limits }

func (e stallError) Error() string {
	return fmt.Sprintf("the mirror stalled: fewer than %d bytes in %s", e.l.MinBytes, e.l.Stall)
}

type statusError struct {
	url  string
	code int
}

func (e statusError) Error() string {
	return fmt.Sprintf("downloading %s: the mirror answered %d %s", e.url, e.code, http.StatusText(e.code))
}

// retry runs try until it succeeds, ctx ends, or further tries are pointless.
func (f *fetcher) retry(ctx context.Context, url string, try func() error) error {
	pause := f.limits.Backoff
	for n := 1; ; n++ {
		err := try()
		if err == nil {
			return nil
		}
		if ctx.Err() != nil {
			return fmt.Errorf("downloading %s: %w", url, context.Cause(ctx))
		}
		var status statusError
		var local *fs.PathError
		final := errors.Is(err, errNotFound) || errors.As(err, &local) ||
			errors.As(err, &status) && status.code < 500 && status.code != http.StatusTooManyRequests && status.code != http.StatusRequestTimeout
		if final {
			return err
		}
		if n == f.limits.Tries {
			return hint.With(fmt.Errorf("%w (tried %d times)", err, n),
				"check the network, or choose another mirror with --mirror")
		}
		select {
		case <-ctx.Done():
		case <-time.After(pause):
		}
		pause *= 2
	}
}

// matches says whether file exists with that digest.
func matches(file string, want Digest) (bool, error) {
	in, err := os.Open(file)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("reading the download cache: %w", err)
	}
	defer in.Close()
	h := sha256.New()
	n, err := io.Copy(h, in)
	if err != nil {
		return false, fmt.Errorf("reading the download cache: %w", err)
	}
	return n == want.Size && hex.EncodeToString(h.Sum(nil)) == want.SHA256, nil
}
