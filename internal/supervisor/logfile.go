package supervisor

import (
	"bytes"
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/hyve-vm/hyve/internal/machine"
)

// What a machine says is kept within these bounds, whoever says it and however fast. What
// is over them is left out, and the log says how much that was.
const (
	maxLogLine = 8 << 10   // bytes of one line
	logRate    = 128 << 10 // bytes a second of one log
	logBurst   = 4 << 20   // bytes that may come at once
	lineCost   = 32        // bytes for which each line counts, beside its own
	dropReport = time.Second
)

// logFile is a log that is kept within bounds.
type logFile struct {
	path    string
	stamped bool                 // the time goes before each line
	opened  func(*os.File) error // is told of each new file; may be nil

	mu      sync.Mutex
	file    *os.File
	size    int64
	budget  bucket
	dropped int // lines, since the log last said so
	report  *time.Timer
}

func openLog(path string, stamped bool, opened func(*os.File) error) (*logFile, error) {
	l := &logFile{path: path, stamped: stamped, opened: opened, budget: bucket{rate: logRate, burst: logBurst}}
	l.report = time.AfterFunc(time.Hour, l.reportDropped)
	l.report.Stop()
	if err := machine.RotateLog(path); err != nil {
		return nil, err
	}
	return l, l.open()
}

func (l *logFile) open() error {
	file, err := os.OpenFile(l.path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("opening a log: %w", err)
	}
	info, err := file.Stat()
	if err == nil && l.opened != nil {
		err = l.opened(file)
	}
	if err != nil {
		file.Close()
		return fmt.Errorf("opening a log: %w", err)
	}
	l.file, l.size = file, info.Size()
	return nil
}

// line writes one line. A log that cannot be written, on a full disk for example, loses
// lines rather than the machine; so does one that is written too fast.
func (l *logFile) line(text string) {
	if extra := len(text) - maxLogLine; extra > 0 {
		text = fmt.Sprintf("%s… (%d bytes cut)", text[:maxLogLine], extra)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.budget.take(len(text)+lineCost, time.Now()) {
		l.drop(1)
		return
	}
	l.put(text)
}

// drop counts lines that are left out. l.mu is held.
func (l *logFile) drop(lines int) {
	if l.dropped == 0 && lines > 0 {
		l.report.Reset(dropReport)
	}
	l.dropped += lines
}

// full tells, and counts what is then left out, whether it is no use to look at the
// lines of text one by one: under a flood that costs more than all the rest.
func (l *logFile) full(text []byte) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.budget.take(0, time.Now()) && l.budget.spent+maxLogLine < l.budget.burst {
		return false
	}
	l.drop(bytes.Count(text, []byte{'\n'}))
	return true
}

// put writes a line, to a new file where it would be too much for this one. l.mu is held.
func (l *logFile) put(text string) {
	if l.stamped {
		text = time.Now().UTC().Format("2006-01-02T15:04:05.000Z") + " " + text
	}
	if l.size+int64(len(text))+1 > machine.MaxLog {
		l.file.Close()
		if machine.RotateLog(l.path) != nil || l.open() != nil {
			return
		}
	}
	n, _ := l.file.WriteString(text + "\n")
	l.size += int64(n)
}

// reportDropped says how many lines are missing.
func (l *logFile) reportDropped() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.dropped > 0 {
		l.put(fmt.Sprintf("%d lines dropped: they came faster than %s a second", l.dropped, machine.FormatSize(logRate)))
		l.dropped = 0
	}
}

func (l *logFile) close() {
	l.report.Stop()
	l.reportDropped()
	l.file.Close()
}

// lineWriter makes lines of what is written to it.
type lineWriter struct {
	each func(line string)

	mu      sync.Mutex
	partial []byte // a line that has not ended
	extra   int    // bytes of it that were left out
}

// Write never fails and keeps no more than maxLogLine.
func (w *lineWriter) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for rest := p; len(rest) > 0; {
		line, after, ended := bytes.Cut(rest, []byte{'\n'})
		room := min(len(line), maxLogLine-len(w.partial))
		w.partial = append(w.partial, line[:room]...)
		w.extra += len(line) - room
		if ended {
			w.end()
		}
		rest = after
	}
	return len(p), nil
}

// flush ends a line that nobody has ended.
func (w *lineWriter) flush() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.partial) > 0 {
		w.end()
	}
}

func (w *lineWriter) end() {
	line := string(bytes.TrimSuffix(w.partial, []byte{'\r'}))
	if w.extra > 0 {
		line = fmt.Sprintf("%s… (%d bytes cut)", line[:min(len(line), maxLogLine-32)], w.extra)
	}
	w.each(line)
	w.partial, w.extra = w.partial[:0], 0
}

// console is what a VM says on its console: all of it goes to the log, as far as that
// takes it, and the end of it is kept.
type console struct {
	lineWriter
	log *logFile

	mu   sync.Mutex
	tail []byte
}

// consoleTail is how much is kept for the cause of a VM's end, in bytes.
const consoleTail = 64 << 10

// Write implements io.Writer.
func (c *console) Write(p []byte) (int, error) {
	c.mu.Lock()
	c.tail = append(c.tail, p...)
	if len(c.tail) > 2*consoleTail {
		c.tail = append(c.tail[:0], c.tail[len(c.tail)-consoleTail:]...)
	}
	c.mu.Unlock()
	if c.log.full(p) {
		c.flush()
		return len(p), nil
	}
	return c.lineWriter.Write(p)
}

// begin forgets what an earlier VM has said.
func (c *console) begin() {
	c.flush()
	c.mu.Lock()
	c.tail = nil
	c.mu.Unlock()
}

// last returns the end of what the VM has said.
func (c *console) last() []byte {
	c.mu.Lock()
	defer c.mu.Unlock()
	return bytes.Clone(c.tail[max(0, len(c.tail)-consoleTail):])
}

// logs are what the supervisor itself writes of a machine: its own log, in which the
// hypervisor's messages are, too, and the console's.
type logs struct {
	supervisor, vm    *logFile
	lines, hypervisor lineWriter // both to supervisor
	console           console
}

// openLogs opens them. From then on what the runtime says of this process' end, on
// standard error, goes into the supervisor's log, also into one that has become new.
func openLogs(dir machine.Dir) (l *logs, err error) {
	l = &logs{}
	if l.supervisor, err = openLog(dir.Log("supervisor"), false, becomeStderr); err != nil {
		return nil, err
	}
	if l.vm, err = openLog(dir.Log("console"), false, nil); err != nil {
		l.supervisor.close()
		return nil, err
	}
	l.lines.each, l.hypervisor.each = l.supervisor.line, l.supervisor.line
	l.console.each, l.console.log = l.vm.line, l.vm
	return l, nil
}

func (l *logs) close() {
	for _, w := range []*lineWriter{&l.lines, &l.hypervisor, &l.console.lineWriter} {
		w.flush()
	}
	l.vm.close()
	l.supervisor.close()
}
