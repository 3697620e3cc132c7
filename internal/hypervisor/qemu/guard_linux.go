package qemu

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// A guard answers for QEMU when it wants to punch holes into files. What a guest gives
// back QEMU takes out of its own memory and, before that, out of the file of which that
// is a private copy, be it other VMs' as well. So for that file the guard says that it
// was done; every other hole the kernel punches.
//
// It is a seccomp filter with user notification (Linux 5.5): the one thread that starts
// QEMU has it, QEMU inherits it. When this process dies QEMU is told that the system
// cannot punch holes, and does without.
type guard struct {
	listener int
	file     unix.Stat_t
}

// errTmpfs says that memory cannot be shared because reading a hole of its file takes
// room on a tmpfs; where there is none the process that reads is killed.
var errTmpfs = errors.New("memory on a tmpfs cannot be shared")

// startGuarded starts a QEMU whose memory is a private copy of the file. With an error
// it was not started.
func startGuarded(cmd *exec.Cmd, file *os.File) error {
	var fs unix.Statfs_t
	if err := unix.Fstatfs(int(file.Fd()), &fs); err != nil {
		return err
	}
	if fs.Type == unix.TMPFS_MAGIC {
		return errTmpfs
	}
	g := &guard{}
	if err := unix.Fstat(int(file.Fd()), &g.file); err != nil {
		return err
	}
	started := make(chan error)
	go func() {
		// Never unlocked: the thread ends with its filter when this is done.
		runtime.LockOSThread()
		var err error
		if g.listener, err = filterPunches(); err == nil {
			if err = cmd.Start(); err != nil {
				unix.Close(g.listener)
			}
		}
		started <- err
	}()
	if err := <-started; err != nil {
		return err
	}
	go g.serve(cmd.Process.Pid)
	return nil
}

// CanShareMemory says why thawed VMs cannot share memory; they can if it is nil.
func CanShareMemory() error {
	tried := make(chan error)
	go func() {
		runtime.LockOSThread()
		listener, err := filterPunches()
		if err == nil {
			unix.Close(listener)
		}
		tried <- err
	}()
	return <-tried
}

// filterPunches sets this thread's filter, and returns where it asks.
func filterPunches() (listener int, err error) {
	const (
		numberAt, archAt = 0, 4
		modeAt           = 16 + 8 // the second argument's lower half; hyve's hosts are little-endian
		load             = unix.BPF_LD | unix.BPF_W | unix.BPF_ABS
		equal            = unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K
		anySet           = unix.BPF_JMP | unix.BPF_JSET | unix.BPF_K
		answer           = unix.BPF_RET | unix.BPF_K
		allow, ask       = 0x7fff0000, 0x7fc00000 // linux/seccomp.h: SECCOMP_RET_ALLOW, _USER_NOTIF
	)
	program := []unix.SockFilter{
		{Code: load, K: archAt},
		{Code: equal, K: auditArch, Jf: 4},
		{Code: load, K: numberAt},
		{Code: equal, K: unix.SYS_FALLOCATE, Jf: 2},
		{Code: load, K: modeAt},
		{Code: anySet, K: unix.FALLOC_FL_PUNCH_HOLE, Jt: 1},
		{Code: answer, K: allow},
		{Code: answer, K: ask},
	}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return 0, os.NewSyscallError("prctl", err)
	}
	fd, _, errno := unix.RawSyscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, unix.SECCOMP_FILTER_FLAG_NEW_LISTENER,
		uintptr(unsafe.Pointer(&unix.SockFprog{Len: uint16(len(program)), Filter: &program[0]})))
	if errno != 0 {
		return 0, os.NewSyscallError("seccomp", errno)
	}
	return int(fd), nil // close-on-exec, as the kernel makes it
}

// notification and response are linux/seccomp.h's seccomp_notif and seccomp_notif_resp.
type notification struct {
	id        uint64
	pid       uint32
	flags     uint32
	number    int32
	arch      uint32
	ip        uint64
	arguments [6]uint64
}

type response struct {
	id    uint64
	value int64
	err   int32
	flags uint32
}

// serve answers until nobody is left to ask.
func (g *guard) serve(pid int) {
	defer unix.Close(g.listener)
	poll := []unix.PollFd{{Fd: int32(g.listener), Events: unix.POLLIN}}
	for {
		if _, err := unix.Poll(poll, -1); err != nil && err != unix.EINTR {
			return
		}
		if poll[0].Revents&unix.POLLIN == 0 {
			if poll[0].Revents != 0 {
				return // QEMU has ended
			}
			continue
		}
		var n notification
		if !control(g.listener, unix.SECCOMP_IOCTL_NOTIF_RECV, unsafe.Pointer(&n)) {
			continue // whoever asked was killed
		}
		answer := response{id: n.id}
		switch guarded, err := g.guards(pid, n.arguments[0]); {
		case err != nil:
			answer.err = -int32(unix.EOPNOTSUPP) // QEMU does without
		case !guarded:
			answer.flags = unix.SECCOMP_USER_NOTIF_FLAG_CONTINUE
		}
		control(g.listener, unix.SECCOMP_IOCTL_NOTIF_SEND, unsafe.Pointer(&answer))
	}
}

// guards tells whether a descriptor of QEMU's is the file.
func (g *guard) guards(pid int, fd uint64) (bool, error) {
	var stat unix.Stat_t
	err := unix.Stat(fmt.Sprintf("/proc/%d/fd/%d", pid, int32(fd)), &stat)
	return stat.Dev == g.file.Dev && stat.Ino == g.file.Ino, err
}

func control(fd int, request uintptr, argument unsafe.Pointer) bool {
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), request, uintptr(argument))
	return errno == 0
}
