package confine

import (
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// denied are the system calls by which a program reaches what it has no descriptor of and
// Landlock does not ask about, or not on every kernel. What only root may do is not among
// them: nobody here has the capability. Calls that are an architecture's own are in
// deniedHere.
var denied = []uintptr{
	// Sockets: TCP, UDP, netlink, agents' and Docker's by their paths, abstract ones. A pair
	// could be connected elsewhere, or send there.
	unix.SYS_SOCKET, unix.SYS_SOCKETPAIR, unix.SYS_CONNECT, unix.SYS_BIND, unix.SYS_LISTEN,
	// Other processes: their memory, their descriptors, their end, their share.
	unix.SYS_PTRACE, unix.SYS_PROCESS_VM_READV, unix.SYS_PROCESS_VM_WRITEV, unix.SYS_PROCESS_MADVISE, unix.SYS_KCMP,
	unix.SYS_PIDFD_OPEN, unix.SYS_PIDFD_GETFD, unix.SYS_PIDFD_SEND_SIGNAL,
	unix.SYS_KILL, unix.SYS_TKILL, unix.SYS_RT_SIGQUEUEINFO, unix.SYS_RT_TGSIGQUEUEINFO,
	unix.SYS_SETPRIORITY, unix.SYS_IOPRIO_SET, unix.SYS_SCHED_SETAFFINITY, unix.SYS_SCHED_SETSCHEDULER, unix.SYS_SCHED_SETPARAM, unix.SYS_SCHED_SETATTR,
	unix.SYS_MIGRATE_PAGES, unix.SYS_MOVE_PAGES,
	// Files by name, in ways that open nothing.
	unix.SYS_TRUNCATE, unix.SYS_FCHMOD, unix.SYS_FCHMODAT, unix.SYS_FCHMODAT2, unix.SYS_FCHOWN, unix.SYS_FCHOWNAT, unix.SYS_UTIMENSAT,
	unix.SYS_SETXATTR, unix.SYS_LSETXATTR, unix.SYS_SETXATTRAT, unix.SYS_REMOVEXATTR, unix.SYS_LREMOVEXATTR, unix.SYS_REMOVEXATTRAT, unix.SYS_FILE_SETATTR,
	unix.SYS_INOTIFY_INIT1, unix.SYS_FANOTIFY_INIT, unix.SYS_NAME_TO_HANDLE_AT, unix.SYS_OPEN_BY_HANDLE_AT,
	// A lock of the caller's, on a file that both have, which one of them can give up for both.
	// What locks its disks itself does that with fcntl(2).
	unix.SYS_FLOCK,
	// What processes of a user share without files.
	unix.SYS_KEYCTL, unix.SYS_ADD_KEY, unix.SYS_REQUEST_KEY,
	unix.SYS_SHMGET, unix.SYS_SHMAT, unix.SYS_SHMCTL, unix.SYS_SEMGET, unix.SYS_SEMOP, unix.SYS_SEMTIMEDOP, unix.SYS_SEMCTL,
	unix.SYS_MSGGET, unix.SYS_MSGSND, unix.SYS_MSGRCV, unix.SYS_MSGCTL, unix.SYS_MQ_OPEN, unix.SYS_MQ_UNLINK,
	// More of the kernel than a program of this kind has use for.
	unix.SYS_UNSHARE, unix.SYS_SETNS, unix.SYS_MOUNT, unix.SYS_UMOUNT2, unix.SYS_PIVOT_ROOT, unix.SYS_CHROOT,
	unix.SYS_MOVE_MOUNT, unix.SYS_OPEN_TREE, unix.SYS_FSOPEN, unix.SYS_FSMOUNT, unix.SYS_FSCONFIG, unix.SYS_FSPICK, unix.SYS_MOUNT_SETATTR,
	unix.SYS_BPF, unix.SYS_PERF_EVENT_OPEN, unix.SYS_USERFAULTFD,
}

// absent are those of which a program is told that the system has none: it then does
// without. io_uring does what is denied out of any filter's sight.
var absent = []uintptr{unix.SYS_IO_URING_SETUP, unix.SYS_IO_URING_ENTER, unix.SYS_IO_URING_REGISTER}

// denyCalls sets this thread's filter. no_new_privs is set.
func denyCalls() error {
	program := callFilter()
	_, _, errno := unix.RawSyscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, 0,
		uintptr(unsafe.Pointer(&unix.SockFprog{Len: uint16(len(program)), Filter: &program[0]})))
	if errno != 0 {
		return os.NewSyscallError("seccomp", errno)
	}
	return nil
}

// callFilter looks at struct seccomp_data, see seccomp(2).
func callFilter() []unix.SockFilter {
	const (
		numberAt, archAt = 0, 4
		firstAt          = 16 // the first argument; hyve's hosts are little-endian
		load             = unix.BPF_LD | unix.BPF_W | unix.BPF_ABS
		equal            = unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K
		atLeast          = unix.BPF_JMP | unix.BPF_JGE | unix.BPF_K
		answer           = unix.BPF_RET | unix.BPF_K
		foreign          = 0x40000000 // the calls of x86's x32, by other numbers
		allow            = unix.SECCOMP_RET_ALLOW
		deny             = unix.SECCOMP_RET_ERRNO | uint32(unix.EPERM)
		lack             = unix.SECCOMP_RET_ERRNO | uint32(unix.ENOSYS)
	)
	program := []unix.SockFilter{
		{Code: load, K: archAt},
		{Code: equal, K: auditArch, Jt: 1}, // 32-bit programs have other numbers, too
		{Code: answer, K: lack},
		{Code: load, K: numberAt},
		{Code: atLeast, K: foreign, Jf: 1},
		{Code: answer, K: lack},
	}
	refuse := func(calls []uintptr, verdict uint32) {
		for _, number := range calls {
			program = append(program, unix.SockFilter{Code: equal, K: uint32(number), Jf: 1}, unix.SockFilter{Code: answer, K: verdict})
		}
	}
	refuse(absent, lack)
	refuse(denied, deny)
	refuse(deniedHere, deny)
	return append(program,
		// Of its own limits it may know, as the C library does.
		unix.SockFilter{Code: equal, K: unix.SYS_PRLIMIT64, Jf: 3},
		unix.SockFilter{Code: load, K: firstAt},
		unix.SockFilter{Code: equal, K: 0, Jt: 1},
		unix.SockFilter{Code: answer, K: deny},
		unix.SockFilter{Code: answer, K: allow},
	)
}
