package qemu

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/hyve-vm/hyve/internal/confine"
)

// A guard answers for QEMU when it opens a file to write or punches a hole into one.
//
// The file that its memory begins as is other VMs' as well, and QEMU is to have a private
// copy of it. For that it opens it to write, although it does not; so it gets it from the
// guard, and can only read it. Before QEMU takes what a guest gives back out of its own
// memory, it punches holes into that file; so the guard says that it was done. Everything
// else the kernel does.
//
// It is a seccomp filter with user notification (Linux 5.9): the one thread that starts
// QEMU has it, QEMU inherits it. When this process dies QEMU is told that the system
// cannot punch holes, and does without.
type guard struct {
	listener int
	path     string   // by which QEMU opens the file
	file     *os.File // open to read
	stat     unix.Stat_t
}

// errTmpfs says that memory cannot be shared because reading a hole of its file takes
// room on a tmpfs; where there is none the process that reads is killed.
var errTmpfs = errors.New("memory on a tmpfs cannot be shared")

// startGuarded starts a QEMU whose memory is a private copy of the file, which it opens
// by the file's name. With an error it was not started. The file stays open as long as
// QEMU runs.
func startGuarded(plan confine.Plan, file *os.File) (*exec.Cmd, confine.Level, error) {
	var level confine.Level
	var fs unix.Statfs_t
	if err := unix.Fstatfs(int(file.Fd()), &fs); err != nil {
		return nil, level, err
	}
	if fs.Type == unix.TMPFS_MAGIC {
		return nil, level, errTmpfs
	}
	g := &guard{listener: -1, path: file.Name(), file: file}
	if err := unix.Fstat(int(file.Fd()), &g.stat); err != nil {
		return nil, level, err
	}
	plan.Also = func() (err error) {
		g.listener, err = filterFiles()
		return err
	}
	// The guard is asked before Start knows which process it is.
	cmd, level, err := plan.Start()
	if err != nil {
		if g.listener >= 0 {
			unix.Close(g.listener)
		}
		return nil, level, err
	}
	go g.serve()
	return cmd, level, nil
}

// canShareMemory says why thawed VMs cannot share memory; they can if it is nil.
func canShareMemory() (err error) {
	confine.OnThread(func() {
		var listener int
		if listener, err = filterFiles(); err == nil {
			unix.Close(listener)
		}
	})
	return err
}

// filterFiles sets this thread's filter, and returns where it asks.
func filterFiles() (listener int, err error) {
	const (
		numberAt, archAt = 0, 4
		// The lower halves of two arguments; hyve's hosts are little-endian.
		secondAt, thirdAt = 16 + 8, 16 + 16

		load       = unix.BPF_LD | unix.BPF_W | unix.BPF_ABS
		mask       = unix.BPF_ALU | unix.BPF_AND | unix.BPF_K
		equal      = unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K
		anySet     = unix.BPF_JMP | unix.BPF_JSET | unix.BPF_K
		answer     = unix.BPF_RET | unix.BPF_K
		allow, ask = unix.SECCOMP_RET_ALLOW, unix.SECCOMP_RET_USER_NOTIF
	)
	program := []unix.SockFilter{
		{Code: load, K: archAt},
		{Code: equal, K: auditArch, Jf: 8}, // to allow
		{Code: load, K: numberAt},
		{Code: equal, K: unix.SYS_OPENAT, Jf: 3},
		{Code: load, K: thirdAt},
		{Code: mask, K: unix.O_ACCMODE},
		{Code: equal, K: unix.O_RDWR, Jt: 4, Jf: 3},
		{Code: equal, K: unix.SYS_FALLOCATE, Jf: 2},
		{Code: load, K: secondAt},
		{Code: anySet, K: unix.FALLOC_FL_PUNCH_HOLE, Jt: 1},
		{Code: answer, K: allow},
		{Code: answer, K: ask},
	}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return -1, os.NewSyscallError("prctl", err)
	}
	fd, _, errno := unix.RawSyscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, unix.SECCOMP_FILTER_FLAG_NEW_LISTENER,
		uintptr(unsafe.Pointer(&unix.SockFprog{Len: uint16(len(program)), Filter: &program[0]})))
	if errno != 0 {
		return -1, os.NewSyscallError("seccomp", errno)
	}
	return int(fd), nil // close-on-exec, as the kernel makes it
}

// notification, response and addition are linux/seccomp.h's seccomp_notif,
// seccomp_notif_resp and seccomp_notif_addfd.
type notification struct {
	id        uint64
	pid       uint32 // the thread's that asks, as this process sees it
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

type addition struct {
	id           uint64
	flags        uint32
	source       uint32
	target       uint32
	descriptorOf uint32 // its flags
}

// serve answers until nobody is left to ask.
func (g *guard) serve() {
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
		if _, err := control(g.listener, unix.SECCOMP_IOCTL_NOTIF_RECV, unsafe.Pointer(&n)); err != nil {
			continue // whoever asked was killed
		}
		answer := g.answer(&n)
		control(g.listener, unix.SECCOMP_IOCTL_NOTIF_SEND, unsafe.Pointer(&answer))
	}
}

func (g *guard) answer(n *notification) response {
	a := response{id: n.id}
	if n.number == unix.SYS_FALLOCATE {
		switch guarded, err := g.guards(n.pid, n.arguments[0]); {
		case err != nil:
			a.err = -int32(unix.EOPNOTSUPP) // QEMU does without
		case !guarded:
			a.flags = unix.SECCOMP_USER_NOTIF_FLAG_CONTINUE
		}
		return a
	}
	if !g.named(n.pid, uintptr(n.arguments[1])) {
		a.flags = unix.SECCOMP_USER_NOTIF_FLAG_CONTINUE
		return a
	}
	add := addition{id: n.id, source: uint32(g.file.Fd()), descriptorOf: unix.O_CLOEXEC}
	fd, err := control(g.listener, unix.SECCOMP_IOCTL_NOTIF_ADDFD, unsafe.Pointer(&add))
	if a.value = int64(fd); err != nil {
		a.value, a.err = 0, -int32(unix.EACCES)
	}
	return a
}

// guards tells whether a descriptor of QEMU's is the file.
func (g *guard) guards(pid uint32, fd uint64) (bool, error) {
	var stat unix.Stat_t
	err := unix.Stat(fmt.Sprintf("/proc/%d/fd/%d", pid, int32(fd)), &stat)
	return stat.Dev == g.stat.Dev && stat.Ino == g.stat.Ino, err
}

// named tells whether the text at an address of QEMU's is the file's name. That another
// of its threads may change it meanwhile gains it nothing: it is answered with that file,
// or asks the kernel as if nobody had asked before.
func (g *guard) named(pid uint32, address uintptr) bool {
	text := make([]byte, len(g.path)+1)
	local := []unix.Iovec{{Base: &text[0]}}
	local[0].SetLen(len(text))
	n, err := unix.ProcessVMReadv(int(pid), local, []unix.RemoteIovec{{Base: address, Len: len(text)}}, 0)
	return err == nil && n == len(text) && string(text) == g.path+"\x00"
}

func control(fd int, request uintptr, argument unsafe.Pointer) (uintptr, error) {
	value, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), request, uintptr(argument))
	if errno != 0 {
		return 0, errno
	}
	return value, nil
}
