package machine

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// ErrLocked says that a machine's lock is held: its supervisor, its hypervisor
// or a command that changes it lives.
var ErrLocked = errors.New("the machine is in use")

// lockWait bounds how long Acquire waits for a lock, which covers the moment
// for which Held holds it.
const lockWait = 500 * time.Millisecond

// A Lock on a machine is flock(2) on a file in its directory. It belongs to the
// open file description: a process that inherits the descriptor holds it too,
// and it ends with the last of them, whatever killed them.
type Lock struct{ file *os.File }

// Acquire locks a machine. The error is ErrLocked if somebody else has it.
func (d Dir) Acquire() (*Lock, error) {
	file, err := acquire(d.Lock(), lockWait)
	if err != nil {
		return nil, fmt.Errorf("locking %s: %w", d, err)
	}
	return &Lock{file}, nil
}

// File returns the descriptor to pass on.
func (l *Lock) File() *os.File { return l.file }

// Release gives up this process' share in the lock.
func (l *Lock) Release() { l.file.Close() }

// Own marks a throw-away machine as that of this process, for as long as the lock
// is held.
func (d Dir) Own() (*Lock, error) {
	file, err := acquire(d.owner(), lockWait)
	if err != nil {
		return nil, fmt.Errorf("locking %s: %w", d, err)
	}
	return &Lock{file}, nil
}

// Held tells whether somebody holds the machine's lock.
func (d Dir) Held() (bool, error) { return held(d.Lock()) }

func held(path string) (bool, error) {
	file, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("asking for a lock: %w", err)
	}
	defer file.Close()
	switch err := flock(file, unix.LOCK_SH|unix.LOCK_NB); {
	case err == nil:
		return false, nil
	case errors.Is(err, unix.EWOULDBLOCK):
		return true, nil
	default:
		return false, fmt.Errorf("asking for the lock %s: %w", path, err)
	}
}

func lockFile(path string, wait time.Duration) (unlock func(), err error) {
	file, err := acquire(path, wait)
	if err != nil {
		return nil, err
	}
	return func() { file.Close() }, nil
}

func acquire(path string, wait time.Duration) (*os.File, error) {
	for deadline := time.Now().Add(wait); ; {
		file, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
		if err != nil {
			return nil, err
		}
		err = flock(file, unix.LOCK_EX|unix.LOCK_NB)
		if err == nil && stillAt(file, path) {
			return file, nil
		}
		file.Close()
		if err != nil && !errors.Is(err, unix.EWOULDBLOCK) {
			return nil, err
		}
		if time.Now().After(deadline) {
			return nil, ErrLocked
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// stillAt tells whether path still names the open file: its directory may have
// been removed between opening and locking.
func stillAt(file *os.File, path string) bool {
	mine, err := file.Stat()
	if err != nil {
		return false
	}
	there, err := os.Stat(path)
	return err == nil && os.SameFile(mine, there)
}

func flock(file *os.File, how int) error {
	for {
		err := unix.Flock(int(file.Fd()), how)
		if !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}
