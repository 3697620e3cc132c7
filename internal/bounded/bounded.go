// Package bounded reads files of which nobody says how long they are, and that somebody
// else may have written.
package bounded

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"syscall"
)

// MaxDocument bounds a file of hyve's own in JSON, in bytes. The longest, a machine's, has
// some kilobytes.
const MaxDocument = 1 << 20

// ErrIrregular says that a path leads to a directory, a device, a pipe or a socket.
var ErrIrregular = errors.New("it is not a regular file")

// A SizeError says that a file is longer than it may be.
type SizeError struct{ Max int64 }

func (e *SizeError) Error() string { return fmt.Sprintf("it is longer than %d bytes", e.Max) }

// ReadFile returns the content of a regular file of at most max bytes. The error is a
// *fs.PathError, of ErrIrregular or a *SizeError where it is about these; nobody waits for
// the other end of a pipe.
func ReadFile(path string, max int64) ([]byte, error) {
	file, err := Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	data, err := io.ReadAll(io.LimitReader(file, max+1))
	if err == nil && int64(len(data)) > max {
		err = &fs.PathError{Op: "read", Path: path, Err: &SizeError{max}}
	}
	if err != nil {
		return nil, err
	}
	return data, nil
}

// Tail returns the last max bytes of a regular file, or all that there is.
func Tail(path string, max int64) ([]byte, error) {
	file, err := Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return nil, err
	}
	if from := info.Size() - max; from > 0 {
		if _, err := file.Seek(from, io.SeekStart); err != nil {
			return nil, err
		}
	}
	return io.ReadAll(io.LimitReader(file, max)) // it may grow
}

// Open opens a regular file for reading, and waits for nobody. The error is a *fs.PathError,
// of ErrIrregular where the path leads to something else.
func Open(path string) (*os.File, error) {
	// Before it is opened: to open a device can do something.
	if info, err := os.Stat(path); err != nil {
		return nil, err
	} else if !info.Mode().IsRegular() {
		return nil, &fs.PathError{Op: "read", Path: path, Err: ErrIrregular}
	}
	// It may be a pipe by now.
	file, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	info, err := file.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = &fs.PathError{Op: "read", Path: path, Err: ErrIrregular}
	}
	if err != nil {
		file.Close()
		return nil, err
	}
	return file, nil
}

// searchStep is how much LastLines looks at a time, in bytes.
const searchStep = 64 << 10

// LastLines returns where the last n lines of a file begin. It reads backwards and keeps
// one step; a last line may be without its end.
func LastLines(file io.ReaderAt, size int64, n int) (int64, error) {
	if n <= 0 {
		return size, nil
	}
	buf := make([]byte, searchStep)
	for end := size; end > 0; {
		begin := max(0, end-searchStep)
		part := buf[:end-begin]
		if _, err := file.ReadAt(part, begin); err != nil && err != io.EOF {
			return 0, err
		}
		if end == size && part[len(part)-1] == '\n' {
			part = part[:len(part)-1]
		}
		for {
			i := bytes.LastIndexByte(part, '\n')
			if i < 0 {
				break
			}
			if n--; n == 0 {
				return begin + int64(i) + 1, nil
			}
			part = part[:i]
		}
		end = begin
	}
	return 0, nil
}
