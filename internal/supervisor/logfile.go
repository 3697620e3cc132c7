package supervisor

import (
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/hyve-vm/hyve/internal/machine"
)

// logFile is a log that is kept within bounds.
type logFile struct {
	path string

	mu   sync.Mutex
	file *os.File
	size int64
}

func openLog(path string) (*logFile, error) {
	l := &logFile{path: path}
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
	if err != nil {
		file.Close()
		return fmt.Errorf("opening a log: %w", err)
	}
	l.file, l.size = file, info.Size()
	return nil
}

// line writes one line with the time before it. A log that cannot be written,
// on a full disk for example, loses lines rather than the machine.
func (l *logFile) line(text string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.size > machine.MaxLog {
		l.file.Close()
		if machine.RotateLog(l.path) != nil || l.open() != nil {
			return
		}
	}
	n, _ := fmt.Fprintf(l.file, "%s %s\n", time.Now().UTC().Format("2006-01-02T15:04:05.000Z"), text)
	l.size += int64(n)
}

func (l *logFile) close() { l.file.Close() }
