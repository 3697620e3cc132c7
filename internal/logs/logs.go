// Package logs prints what the parts of a machine have logged, and follows it.
package logs

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"github.com/fsnotify/fsnotify"

	"github.com/hyve-vm/hyve/internal/bounded"
	"github.com/hyve-vm/hyve/internal/guestapi"
	"github.com/hyve-vm/hyve/internal/machine"
)

// Services are the logs of a machine, in the order in which they begin.
var Services = []string{"supervisor", "console", guestapi.ServiceInit, guestapi.ServiceContainerd, guestapi.ServiceDockerd}

// Options say what of the logs is printed.
type Options struct {
	Services []string // whose
	Tail     int      // so many of each service's last lines; all if it is negative
	Follow   bool     // and those that come, until the context ends
}

// Print prints the logs of the machine in dir, each line with its service before it.
func Print(ctx context.Context, out io.Writer, dir machine.Dir, o Options) error {
	var tails []*tail
	for _, service := range o.Services {
		t := &tail{service: service, path: dir.Log(service), out: out}
		defer t.close()
		tails = append(tails, t)
	}
	var watcher *fsnotify.Watcher
	if o.Follow {
		var err error
		if watcher, err = fsnotify.NewWatcher(); err != nil {
			return fmt.Errorf("watching the logs: %w", err)
		}
		defer watcher.Close()
		if err := watcher.Add(dir.Logs()); err != nil {
			return fmt.Errorf("watching the logs: %w", err)
		}
	}
	for _, t := range tails {
		if err := t.begin(o.Tail); err != nil {
			return err
		}
	}
	for follow := o.Follow; follow; {
		select {
		case <-ctx.Done():
			follow = false
		case err := <-watcher.Errors:
			return fmt.Errorf("watching the logs: %w", err)
		case event := <-watcher.Events:
			for _, t := range tails {
				if event.Name != t.path {
					continue
				}
				if err := t.changed(event.Has(fsnotify.Create)); err != nil {
					return err
				}
			}
		}
	}
	for _, t := range tails {
		if err := t.rest(); err != nil {
			return err
		}
	}
	return nil
}

// maxLine bounds what is printed of one line, in bytes. The supervisor cuts what it
// writes earlier; an older one's logs may have lines of any length.
const maxLine = 64 << 10

// A tail prints one part's log from where it has come to.
type tail struct {
	service string
	path    string
	out     io.Writer
	file    *os.File // nil while there is none
	lines   *bufio.Reader
	partial []byte // a line whose end is not written yet
	cut     int    // bytes of it that were left out
}

func (t *tail) close() {
	if t.file != nil {
		t.file.Close()
	}
}

// begin prints what there is: the last n lines, or all for n < 0.
func (t *tail) begin(n int) error {
	if err := t.open(); err != nil || t.file == nil {
		return err
	}
	if n >= 0 {
		size, err := t.file.Seek(0, io.SeekEnd)
		if err == nil {
			size, err = bounded.LastLines(t.file, size, n)
		}
		if err == nil {
			_, err = t.file.Seek(size, io.SeekStart)
		}
		if err != nil {
			return fmt.Errorf("reading a log: %w", err)
		}
	}
	return t.print()
}

func (t *tail) open() error {
	file, err := bounded.Open(t.path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("opening a log: %w", err)
	}
	t.close()
	t.file, t.lines = file, bufio.NewReader(file)
	return nil
}

// changed prints what is new. A log that is created anew was rotated.
func (t *tail) changed(created bool) error {
	if t.file != nil {
		if err := t.print(); err != nil {
			return err
		}
	}
	if created || t.file == nil {
		if err := t.rest(); err != nil {
			return err
		}
		if err := t.open(); err != nil || t.file == nil {
			return err
		}
		return t.print()
	}
	return nil
}

// print prints the lines that are whole.
func (t *tail) print() error {
	for {
		line, err := t.lines.ReadSlice('\n')
		room := min(len(line), maxLine-len(t.partial))
		t.partial = append(t.partial, line[:room]...)
		t.cut += len(line) - room
		if errors.Is(err, bufio.ErrBufferFull) {
			continue
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("reading a log: %w", err)
		}
		if err := t.rest(); err != nil {
			return err
		}
	}
}

// rest prints the line that has come so far. Of a log that goes no further its end may
// be missing: what was said when the machine broke down.
func (t *tail) rest() error {
	if len(t.partial) == 0 {
		return nil
	}
	line := bytes.TrimRight(t.partial, "\r\n")
	if t.cut > 0 {
		line = fmt.Appendf(line, "… (%d bytes cut)", t.cut)
	}
	_, err := fmt.Fprintf(t.out, "%-10s | %s\n", t.service, line)
	t.partial, t.cut = t.partial[:0], 0
	return err
}
