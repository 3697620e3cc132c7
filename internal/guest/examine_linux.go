package guest

import (
	"errors"
	"fmt"
	"hash/maphash"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/hyve-vm/hyve/internal/guestapi"
)

// An examiner is what a guest notes of itself before it is frozen, to find out after a thaw
// whether it is still that. Meanwhile it costs memory alone, a tenth of a megabyte.
type examiner struct {
	mu        sync.Mutex
	at        time.Duration // uptime
	seed      maphash.Seed
	programs  []program
	kernelLog int // the descriptor of one, at what had not been logged; 0 if nothing was noted
}

// A program is the file of a running process, and sums of those of its pages that are in
// memory, by their numbers.
type program struct {
	path string // /proc/PID/exe: a freeze ends no process of these
	sums map[int]uint64
}

// eachPage is of how many pages one is noted, if that is in memory. All of the engine's are
// 100 MiB, which emulation does not read in a moment.
const eachPage = 16

// timerTrial is how long a guest sleeps to show that its timers wake it.
const timerTrial = 5 * time.Millisecond

// examine notes what there is, or compares it with what was noted.
func (x *examiner) examine(note bool) (*guestapi.Examination, error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	e := new(guestapi.Examination)
	if note {
		if err := x.note(); err != nil {
			return nil, err
		}
	} else {
		if x.kernelLog == 0 {
			return nil, errors.New("examining the guest: it has noted nothing of itself")
		}
		time.Sleep(timerTrial)
		for _, p := range x.programs {
			same, damaged := p.compare(x.seed)
			e.Pages += same + damaged
			e.Damaged += damaged
		}
		x.programs = nil
		complaint, err := firstComplaint(x.kernelLog)
		if err != nil {
			return nil, err
		}
		e.Complaint = guestapi.NewText(complaint)
	}
	e.UnixNano, e.Monotonic = time.Now().UnixNano(), uptime()-x.at
	return e, nil
}

func (x *examiner) note() (err error) {
	x.at = uptime()
	x.seed = maphash.MakeSeed()
	if x.programs, err = runningPrograms(x.seed); err != nil {
		return fmt.Errorf("noting what is in memory: %w", err)
	}
	if x.kernelLog != 0 {
		unix.Close(x.kernelLog)
	}
	if x.kernelLog, err = openKernelLog(); err != nil {
		return fmt.Errorf("noting where the kernel's log ends: %w", err)
	}
	return nil
}

// runningPrograms returns the programs of all processes, each once.
func runningPrograms(seed maphash.Seed) (programs []program, err error) {
	paths, err := filepath.Glob("/proc/[0-9]*/exe")
	if err != nil {
		return nil, err
	}
	var seen []os.FileInfo
	for _, path := range paths {
		info, err := os.Stat(path)
		if err != nil || slices.ContainsFunc(seen, func(other os.FileInfo) bool { return os.SameFile(info, other) }) {
			continue // a thread of the kernel, most of the time
		}
		seen = append(seen, info)
		p, err := noteProgram(path, seed)
		if err != nil {
			return nil, err
		}
		programs = append(programs, p)
	}
	return programs, nil
}

func noteProgram(path string, seed maphash.Seed) (program, error) {
	p := program{path, map[int]uint64{}}
	err := eachResident(path, func(number int, page []byte) {
		if number%eachPage == 0 {
			p.sums[number] = maphash.Bytes(seed, page)
		}
	})
	return p, err
}

// compare returns how many of the program's pages are as they were noted, and how many are
// not. Those that are not in memory any more are neither: they would be read from the disk.
func (p *program) compare(seed maphash.Seed) (same, damaged int) {
	eachResident(p.path, func(number int, page []byte) { // one that has ended has none
		noted, ok := p.sums[number]
		switch {
		case !ok:
		case maphash.Bytes(seed, page) == noted:
			same++
		default:
			damaged++
		}
	})
	return same, damaged
}

// eachResident passes those pages of a file to f that are in memory, with their numbers.
func eachResident(path string, f func(number int, page []byte)) error {
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return err
	}
	size := os.Getpagesize()
	pages := int(info.Size()) / size // whole ones
	if pages == 0 {
		return nil
	}
	mapped, err := unix.Mmap(int(file.Fd()), 0, pages*size, unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		return &os.PathError{Op: "mmap", Path: path, Err: err}
	}
	defer unix.Munmap(mapped)
	resident := make([]byte, pages)
	if _, _, errno := unix.Syscall(unix.SYS_MINCORE, uintptr(unsafe.Pointer(&mapped[0])), uintptr(len(mapped)), uintptr(unsafe.Pointer(&resident[0]))); errno != 0 {
		return &os.PathError{Op: "mincore", Path: path, Err: errno}
	}
	for number, in := range resident {
		if in&1 != 0 {
			f(number, mapped[number*size:(number+1)*size])
		}
	}
	return nil
}

// openKernelLog opens the kernel's log where it ends. Reads of it do not wait.
func openKernelLog() (fd int, err error) {
	const path = "/dev/kmsg"
	fd, err = unix.Open(path, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return 0, &os.PathError{Op: "open", Path: path, Err: err}
	}
	if _, err := unix.Seek(fd, 0, unix.SEEK_END); err != nil {
		unix.Close(fd)
		return 0, &os.PathError{Op: "seek", Path: path, Err: err}
	}
	return fd, nil
}

// firstComplaint reads a kernel's log to its end, a record a read, and returns the first
// complaint in it, if there is one.
func firstComplaint(log int) (string, error) {
	first := ""
	buf := make([]byte, 16<<10)
	for {
		n, err := unix.Read(log, buf)
		switch {
		case errors.Is(err, unix.EAGAIN), n == 0:
			return first, nil
		case errors.Is(err, unix.EPIPE), errors.Is(err, unix.EINTR):
			continue // records were overwritten before they were read
		case err != nil:
			return "", fmt.Errorf("reading the kernel's log: %w", err)
		}
		if text, ok := parseComplaint(string(buf[:n])); ok && first == "" {
			first = text
		}
	}
}
