package guestapi

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"sync"
)

// Bounds of one message, its newline included, in bytes. A longer line is dropped as
// damaged. The guest says less than the host: its longest is a log line, each byte of
// which may take six.
const (
	MaxMessage = 1 << 20
	MaxEvent   = 64 << 10
)

// maxMessage is the bound of a type's messages.
func maxMessage[M any]() int {
	if _, ok := any(*new(M)).(Event); ok {
		return MaxEvent
	}
	return MaxMessage
}

// A Writer sends messages of one type, each in a single write, from any number
// of goroutines.
type Writer[M any] struct {
	mu   sync.Mutex
	w    io.Writer
	torn bool // the last message was not written to its end
}

// NewWriter returns a Writer to w.
func NewWriter[M any](w io.Writer) *Writer[M] { return &Writer[M]{w: w} }

// Write sends one message.
func (w *Writer[M]) Write(m M) error {
	line, err := json.Marshal(m)
	if err != nil {
		return fmt.Errorf("encoding a message: %w", err)
	}
	if limit := maxMessage[M](); len(line)+1 > limit {
		return fmt.Errorf("encoding a message: %d bytes, at most %d", len(line)+1, limit)
	}
	return w.send(append(line, '\n'))
}

// Resync ends whatever an earlier sender may have left unfinished in the
// stream; it goes before a hello.
func (w *Writer[M]) Resync() error { return w.send([]byte{'\n'}) }

func (w *Writer[M]) send(b []byte) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.torn {
		b = append([]byte{'\n'}, b...)
	}
	_, err := w.w.Write(b)
	w.torn = err != nil
	return err
}

// A Reader receives messages of one type. It is for one goroutine.
type Reader[M any] struct {
	r *bufio.Reader
	// Pace is called, if set, with how many bytes have come, for every line and every part
	// of a long one. Nothing more is read until it returns: whoever sends waits.
	Pace func(bytes int)
	// Damaged is called, if set, with a line that is no message, cut to 200
	// bytes. Reading goes on after it.
	Damaged func(line []byte)
}

// NewReader returns a Reader from r.
func NewReader[M any](r io.Reader) *Reader[M] {
	return &Reader[M]{r: bufio.NewReaderSize(r, 64<<10)}
}

// Read returns the next message, or the stream's error. Empty lines are
// nothing; damaged ones are reported and skipped.
func (r *Reader[M]) Read() (M, error) {
	for {
		var m M
		line, err := r.line()
		if err != nil {
			return m, err
		}
		if len(bytes.TrimSpace(line)) == 0 {
			continue
		}
		if json.Unmarshal(line, &m) == nil {
			return m, nil
		}
		if r.Damaged != nil {
			r.Damaged(line[:min(len(line), 200)])
		}
	}
}

// line returns the next line without its newline; of one longer than
// its bound only a prefix, which is no message.
func (r *Reader[M]) line() ([]byte, error) {
	var line []byte
	for {
		part, err := r.r.ReadSlice('\n')
		if r.Pace != nil {
			r.Pace(len(part))
		}
		if len(line) < maxMessage[M]() {
			line = append(line, part...)
		}
		if err == bufio.ErrBufferFull {
			continue
		}
		if err != nil {
			return nil, err
		}
		return bytes.TrimSuffix(line, []byte{'\n'}), nil
	}
}
