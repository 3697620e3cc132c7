package cli

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strings"

	"github.com/fsnotify/fsnotify"
	"github.com/spf13/cobra"

	"github.com/hyve-vm/hyve/internal/bounded"
	"github.com/hyve-vm/hyve/internal/guestapi"
	"github.com/hyve-vm/hyve/internal/machine"
)

// services are the logs of a machine, in the order in which they begin.
var services = []string{"supervisor", "console", guestapi.ServiceInit, guestapi.ServiceContainerd, guestapi.ServiceDockerd}

func (a *app) logsCommand() *cobra.Command {
	var follow bool
	var tail int
	var only []string
	cmd := &cobra.Command{
		Use:               "logs [NAME]",
		Short:             "Print a machine's logs",
		Long:              "Print the logs of a machine's parts, each line with its part before it:\n" + strings.Join(services, ", ") + ".",
		Args:              atMostOne,
		ValidArgsFunction: a.completeNames,
		RunE: func(cmd *cobra.Command, args []string) error {
			for _, service := range only {
				if !slices.Contains(services, service) {
					return &usageError{fmt.Errorf("there is no log named %q", service), "these are: " + strings.Join(services, ", ")}
				}
			}
			home, err := a.home()
			if err != nil {
				return err
			}
			name, err := a.resolve(home, args)
			if err != nil {
				return err
			}
			if err := mustExist(home, name); err != nil {
				return err
			}
			return a.logs(cmd.Context(), home.Dir(name), only, tail, follow)
		},
	}
	cmd.Flags().BoolVarP(&follow, "follow", "f", false, "print new lines as they come")
	cmd.Flags().IntVarP(&tail, "tail", "n", -1, "print only the last `N` lines of each part")
	cmd.Flags().StringSliceVar(&only, "service", services, "print only these parts")
	return cmd
}

func (a *app) logs(ctx context.Context, dir machine.Dir, only []string, tail int, follow bool) error {
	var tails []*logTail
	for _, service := range only {
		t := &logTail{service: service, path: dir.Log(service), out: a.stdout}
		defer t.close()
		tails = append(tails, t)
	}
	var watcher *fsnotify.Watcher
	if follow {
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
		if err := t.begin(tail); err != nil {
			return err
		}
	}
	for follow {
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

// maxLogLine bounds what is printed of one line, in bytes. The supervisor cuts what it
// writes earlier; an older one's logs may have lines of any length.
const maxLogLine = 64 << 10

// logTail prints one part's log from where it has come to.
type logTail struct {
	service string
	path    string
	out     io.Writer
	file    *os.File // nil while there is none
	lines   *bufio.Reader
	partial []byte // a line whose end is not written yet
	cut     int    // bytes of it that were left out
}

func (t *logTail) close() {
	if t.file != nil {
		t.file.Close()
	}
}

// begin prints what there is: the last n lines, or all for n < 0.
func (t *logTail) begin(n int) error {
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

func (t *logTail) open() error {
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
func (t *logTail) changed(created bool) error {
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
func (t *logTail) print() error {
	for {
		line, err := t.lines.ReadSlice('\n')
		room := min(len(line), maxLogLine-len(t.partial))
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
func (t *logTail) rest() error {
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
