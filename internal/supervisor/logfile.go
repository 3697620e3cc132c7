package supervisor

import (
	"fmt"
	"os"
	"sync"
	"time"
)

// maxLog bounds a log file, in bytes. A file that has reached it becomes
// NAME.1, in place of an older one.
const maxLog = 10 << 20

// logFile is a log that is kept within bounds.
type logFile struct {
	path string

	mu   sync.Mutex
	file *os.File
	size int64
}

func openLog(path string) (*logFile, error) {
	l := &logFile{path: path}
	if err := rotate(path); err != nil {
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
	if l.size > maxLog {
		l.file.Close()
		if rotate(l.path) != nil || l.open() != nil {
			return
		}
	}
	n, _ := fmt.Fprintf(l.file, "%s %s\n", time.Now().UTC().Format("2006-01-02T15:04:05.000Z"), text)
	l.size += int64(n)
}

func (l *logFile) close() { l.file.Close() }

// rotate renames a log that has reached its bound.
func rotate(path string) error {
	info, err := os.Stat(path)
	if err != nil || info.Size() <= maxLog {
		return nil
	}
	if err := os.Rename(path, path+".1"); err != nil {
		return fmt.Errorf("rotating a log: %w", err)
	}
	return nil
}
