package qemu

import (
	"bufio"
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/hyve-vm/hyve/internal/confine"
	"github.com/hyve-vm/hyve/internal/hypervisor"
)

// takenOver is the name of this program as a QEMU that a guest has taken over.
const takenOver = "taken-over"

func TestMain(m *testing.M) {
	if filepath.Base(os.Args[0]) == takenOver {
		plunder()
		return
	}
	os.Exit(m.Run())
}

// loot is what it is after. It comes as the guest's name.
type loot struct {
	Key, Disk, Memory, Program, Dir string
	Sockets                         []string // by path, the last takes datagrams
	Abstract, TCP                   string
	Supervisor, Victim              int
	Shared                          int // System V memory
}

// spoils is what it got: by the attempt, "" if that succeeded or why not.
type spoils struct {
	Tried       map[string]string
	Environment []string
	Open        map[int]string
	Core        uint64
	NoNewPrivs  int
	Effective   uint32
}

// An attempt, and what of a host has to be there for it to fail.
type attempt struct {
	name  string
	keeps func(confine.Level) bool
	try   func(loot) error
}

func files(l confine.Level) bool     { return l.Landlock >= 1 }
func seccomp(l confine.Level) bool   { return l.Seccomp }
func processes(l confine.Level) bool { return l.Landlock >= 1 || l.Seccomp }
func signals(l confine.Level) bool   { return l.Landlock >= 6 || l.Namespaces }

func opening(path string, flags int) error {
	file, err := os.OpenFile(path, flags, 0o600)
	if err == nil {
		file.Close()
	}
	return err
}

func calling(number uintptr, a ...uintptr) error {
	a = append(a, make([]uintptr, 6)...)
	if _, _, errno := unix.Syscall6(number, a[0], a[1], a[2], a[3], a[4], a[5]); errno != 0 {
		return errno
	}
	return nil
}

func dialing(kind, address string) error {
	conn, err := net.Dial(kind, address)
	if err == nil {
		conn.Close()
	}
	return err
}

var attempts = []attempt{
	{"read a key", files, func(l loot) error { return opening(l.Key, os.O_RDONLY) }},
	{"write another machine's disk", files, func(l loot) error { return opening(l.Disk, os.O_RDWR) }},
	{"list a directory", files, func(l loot) error { _, err := os.ReadDir(l.Dir); return err }},
	{"make a file", files, func(l loot) error { return opening(l.Dir+"/new", os.O_CREATE|os.O_WRONLY) }},
	{"make a directory", files, func(l loot) error { return os.Mkdir(l.Dir+"/newdir", 0o700) }},
	{"make a link", files, func(l loot) error { return os.Symlink("x", l.Dir+"/link") }},
	{"rename", files, func(l loot) error { return os.Rename(l.Dir+"/a", l.Dir+"/b") }},
	{"remove", files, func(l loot) error { return os.Remove(l.Dir + "/c") }},
	{"execute what is the user's", files, func(l loot) error { return exec.Command(l.Program).Run() }},
	{"truncate", seccomp, func(l loot) error { return os.Truncate(l.Key, 1) }},
	{"change a mode", seccomp, func(l loot) error { return os.Chmod(l.Key, 0o644) }},
	{"change a time", seccomp, func(l loot) error { return os.Chtimes(l.Key, time.Unix(1, 0), time.Unix(1, 0)) }},
	{"change a file's flags", seccomp, func(l loot) error {
		path, err := unix.BytePtrFromString(l.Key)
		var attr [24]byte // struct file_attr, all of it 0
		here := unix.AT_FDCWD
		return cmp.Or(err, calling(unix.SYS_FILE_SETATTR, uintptr(here), uintptr(unsafe.Pointer(path)), uintptr(unsafe.Pointer(&attr)), unsafe.Sizeof(attr)))
	}},
	{"let go of the machine's lock", seccomp, func(loot) error { return unix.Flock(0, unix.LOCK_UN) }},
	{"watch a directory", seccomp, func(l loot) error { _, err := unix.InotifyInit1(0); return err }},
	{"reach an agent", seccomp, func(l loot) error { return dialing("unix", l.Sockets[0]) }},
	{"reach Docker", seccomp, func(l loot) error { return dialing("unix", l.Sockets[1]) }},
	{"reach the supervisor", seccomp, func(l loot) error { return dialing("unix", l.Sockets[2]) }},
	{"send a datagram", seccomp, func(l loot) error {
		pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_DGRAM, 0)
		if err != nil {
			return err
		}
		return unix.Sendto(pair[0], []byte("x"), 0, &unix.SockaddrUnix{Name: l.Sockets[3]})
	}},
	{"reach an abstract socket", seccomp, func(l loot) error { return dialing("unix", l.Abstract) }},
	{"connect by TCP", seccomp, func(l loot) error { return dialing("tcp", l.TCP) }},
	{"listen on TCP", seccomp, func(l loot) error { _, err := net.Listen("tcp", "127.0.0.1:0"); return err }},
	{"send by UDP", seccomp, func(l loot) error { return dialing("udp", l.TCP) }},
	{"ask the kernel's network", seccomp, func(l loot) error {
		_, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW, 0)
		return err
	}},
	{"make a ring", seccomp, func(l loot) error {
		var params [120]byte
		return calling(unix.SYS_IO_URING_SETUP, 1, uintptr(unsafe.Pointer(&params)))
	}},
	{"read the supervisor's memory", processes, func(l loot) error {
		var b [1]byte
		local := []unix.Iovec{{Base: &b[0], Len: 1}}
		_, err := unix.ProcessVMReadv(l.Supervisor, local, []unix.RemoteIovec{{Base: uintptr(0x400000), Len: 1}}, 0)
		if err == unix.EFAULT {
			return nil // it might have
		}
		return err
	}},
	{"open the supervisor's memory", processes, func(l loot) error {
		return opening(fmt.Sprintf("/proc/%d/mem", l.Supervisor), os.O_RDWR)
	}},
	{"read the supervisor's environment", processes, func(l loot) error {
		_, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", l.Supervisor))
		return err
	}},
	{"look at the supervisor's files", processes, func(l loot) error {
		_, err := os.Readlink(fmt.Sprintf("/proc/%d/fd/0", l.Supervisor))
		return err
	}},
	{"take a descriptor", seccomp, func(l loot) error {
		fd, err := unix.PidfdOpen(l.Supervisor, 0)
		if err != nil {
			return err
		}
		_, err = unix.PidfdGetfd(fd, 0, 0)
		return err
	}},
	{"signal the supervisor", signals, func(l loot) error { return unix.Kill(l.Supervisor, 0) }},
	{"signal the supervisor's thread", signals, func(l loot) error { return unix.Tgkill(l.Supervisor, l.Supervisor, 0) }},
	{"signal by a file's owner", signals, func(l loot) error {
		_, err := unix.FcntlInt(0, unix.F_SETOWN, l.Victim)
		if owner, _ := unix.FcntlInt(0, unix.F_GETOWN, 0); err == nil && owner != l.Victim {
			return unix.ESRCH
		}
		return errors.Join(err, unix.Tgkill(l.Victim, l.Victim, 0))
	}},
	{"limit another", seccomp, func(l loot) error {
		return unix.Prlimit(l.Victim, unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: 9, Max: 9}, nil)
	}},
	{"slow another down", seccomp, func(l loot) error { return unix.Setpriority(unix.PRIO_PROCESS, l.Victim, 19) }},
	{"attach shared memory", seccomp, func(l loot) error {
		_, err := unix.SysvShmAttach(l.Shared, 0, 0)
		return err
	}},
	{"read a keyring", seccomp, func(l loot) error {
		_, err := unix.KeyctlGetKeyringID(unix.KEY_SPEC_USER_KEYRING, true)
		return err
	}},
	{"make a mount's name space", seccomp, func(l loot) error { runtime.LockOSThread(); return unix.Unshare(unix.CLONE_NEWNS) }},
	{"trace", processes, func(l loot) error { return unix.PtraceAttach(l.Victim) }},
	// Last: it ends the victim.
	{"kill", signals, func(l loot) error { return unix.Kill(l.Victim, unix.SIGKILL) }},
}

// plunder is the program: it tries, and tells on standard error.
func plunder() {
	runtime.LockOSThread()
	name := strings.TrimPrefix(os.Args[slices.Index(os.Args, "-name")+1], "guest=")
	var l loot
	if err := json.Unmarshal([]byte(strings.ReplaceAll(name, ",,", ",")), &l); err != nil {
		panic(err)
	}
	s := spoils{Tried: map[string]string{}, Environment: os.Environ(), Open: map[int]string{}}
	for fd := range 64 {
		var stat unix.Stat_t
		if unix.Fstat(fd, &stat) == nil {
			s.Open[fd] = fmt.Sprint(stat.Dev, stat.Ino)
		}
	}
	for _, a := range attempts {
		s.Tried[a.name] = ""
		if err := a.try(l); err != nil {
			s.Tried[a.name] = err.Error()
		}
	}
	// What it is given by the guard, as QEMU is.
	s.Tried["write the shared memory"] = "not opened"
	if file, err := os.OpenFile(l.Memory, os.O_RDWR, 0); err == nil {
		_, err := file.WriteAt([]byte("mine"), 0)
		s.Tried["write the shared memory"] = fmt.Sprint(err)
		_, err = unix.Mmap(int(file.Fd()), 0, 4096, unix.PROT_WRITE, unix.MAP_SHARED)
		s.Tried["map the shared memory"] = fmt.Sprint(err)
		_, err = unix.Mmap(int(file.Fd()), 0, 4096, unix.PROT_WRITE, unix.MAP_PRIVATE)
		s.Tried["copy the shared memory"] = fmt.Sprint(err)
	}
	var core unix.Rlimit
	unix.Getrlimit(unix.RLIMIT_CORE, &core)
	s.Core = core.Max
	s.NoNewPrivs, _ = unix.PrctlRetInt(unix.PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0)
	var caps [2]unix.CapUserData
	unix.Capget(&unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}, &caps[0])
	s.Effective = caps[0].Effective | caps[1].Effective
	out, _ := json.Marshal(s)
	fmt.Fprintf(os.Stderr, "%s\n", out)
	pretend()
}

// pretend answers on the monitor as if nothing had happened.
func pretend() {
	monitor := os.NewFile(monitorFD, "monitor")
	fmt.Fprintln(monitor, `{"QMP":{"version":{},"capabilities":[]}}`)
	lines := bufio.NewScanner(monitor)
	for lines.Scan() {
		var command struct {
			Execute string
			ID      int
		}
		if json.Unmarshal(lines.Bytes(), &command) != nil {
			return
		}
		fmt.Fprintf(monitor, `{"return":{},"id":%d}`+"\n", command.ID)
		switch command.Execute {
		case "migrate-incoming":
			fmt.Fprintln(monitor, `{"event":"MIGRATION","data":{"status":"completed"},"timestamp":{"seconds":1,"microseconds":1}}`)
		case "quit":
			return
		}
	}
}

// TestTakenOver has a program in QEMU's place try what somebody would who has taken that
// over: as this user, and as an ordinary one if that is root.
func TestTakenOver(t *testing.T) {
	t.Run("own", testTakenOver)
	if os.Getuid() != 0 {
		return
	}
	t.Run("ordinary", func(t *testing.T) {
		dir := t.TempDir()
		const nobody = 65534
		home := filepath.Join(dir, "home")
		program := filepath.Join(dir, "qemu.test")
		copyProgram(t, program)
		if err := errors.Join(os.Chmod(dir, 0o711), os.Chmod(filepath.Dir(dir), 0o711), os.Mkdir(home, 0o700), os.Chown(home, nobody, nobody)); err != nil {
			t.Fatal(err)
		}
		cmd := exec.Command(program, "-test.v", "-test.run=^TestTakenOver$/^own$")
		cmd.Dir = home
		cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "TMPDIR=" + home}
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
		out, err := cmd.CombinedOutput()
		if t.Logf("%s", out); err != nil || !bytes.Contains(out, []byte("--- PASS: TestTakenOver/own/kill")) {
			t.Errorf("as an ordinary user: %v", err)
		}
	})
}

func copyProgram(t *testing.T, to string) {
	t.Helper()
	program, err := os.ReadFile("/proc/self/exe")
	if err == nil {
		err = os.WriteFile(to, program, 0o755)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// plant makes what there is to take, anew.
func plant(t *testing.T) loot {
	t.Helper()
	dir, err := os.MkdirTemp("", "l") // short, for the sockets
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	l := loot{
		Key: dir + "/id_ed25519", Disk: dir + "/disk.img", Memory: dir + "/memory", Program: dir + "/program", Dir: dir + "/dir",
		Supervisor: os.Getpid(),
	}
	for _, path := range []string{l.Key, l.Disk, l.Dir + "/a", l.Dir + "/c"} {
		if err := errors.Join(os.MkdirAll(l.Dir, 0o700), os.WriteFile(path, []byte("secret"), 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(os.WriteFile(l.Memory, bytes.Repeat([]byte("m"), 8192), 0o600), os.WriteFile(l.Program, []byte("#!/bin/sh\n"), 0o700)); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"agent", "docker", "control"} {
		l.Sockets = append(l.Sockets, listen(t, filepath.Join(dir, name)))
	}
	log, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: dir + "/log"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { log.Close() })
	l.Sockets = append(l.Sockets, dir+"/log")
	l.Abstract = listen(t, "@hyve-test"+filepath.Base(dir))
	tcp, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { tcp.Close() })
	l.TCP = tcp.Addr().String()
	victim := exec.Command("sleep", "600")
	if err := victim.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { victim.Process.Kill(); victim.Wait() })
	l.Victim = victim.Process.Pid
	if l.Shared, err = unix.SysvShmGet(unix.IPC_PRIVATE, 4096, 0o600); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.SysvShmCtl(l.Shared, unix.IPC_RMID, nil) })
	return l
}

func read(t *testing.T, said []byte) (s spoils) {
	t.Helper()
	at := bytes.IndexByte(said, '{')
	if at < 0 || json.Unmarshal(said[at:], &s) != nil {
		t.Fatalf("it says %q", said)
	}
	return s
}

func testTakenOver(t *testing.T) {
	dir := t.TempDir()
	program := filepath.Join(dir, takenOver)
	copyProgram(t, program)

	// What fails when nothing confines it is no attempt.
	l := plant(t)
	text, _ := json.Marshal(l)
	unconfined := exec.Command(program, "-name", strings.ReplaceAll(string(text), ",", ",,"))
	// Nobody is at its monitor. Without one it would read what it has opened first, and
	// if that is its own watch of a directory, for ever.
	silence, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer silence.Close()
	unconfined.ExtraFiles = []*os.File{silence}
	out, err := unconfined.CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	free := read(t, out)

	l = plant(t)
	text, _ = json.Marshal(l)
	t.Setenv("HYVE_TEST_TOKEN", "secret")
	if err := os.WriteFile(dir+"/inherited", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	fd, err := syscall.Open(dir+"/inherited", syscall.O_RDWR, 0) // as a caller's, without O_CLOEXEC
	if err != nil {
		t.Fatal(err)
	}
	defer syscall.Close(fd)
	cfg := hypervisor.Config{
		Name: string(text), CPUs: 1, Memory: 1 << 20, Kernel: dir + "/kernel",
		Disks: []hypervisor.Disk{{Serial: "own", Path: dir + "/own"}},
	}
	if err := errors.Join(os.WriteFile(dir+"/own", nil, 0o600), os.WriteFile(cfg.Kernel, nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	q := &QEMU{Path: program, Arch: runtime.GOARCH, Version: MinVersion}
	vm, said := takeOver(t, q, cfg, hypervisor.Options{})
	got := read(t, said)
	level := vm.level
	t.Logf("user %d, %+v", os.Getuid(), level)
	for _, gap := range level.Gaps() {
		t.Logf("open on this host: %s: %s", gap.Missing, gap.Consequence)
	}
	for _, a := range attempts {
		t.Run(a.name, func(t *testing.T) {
			if why := free.Tried[a.name]; why != "" {
				t.Skipf("fails here anyway: %s", why)
			}
			if !a.keeps(level) {
				t.Skipf("this host offers nothing against it: %+v", level)
			}
			if got.Tried[a.name] == "" {
				t.Error("it could")
			}
		})
	}
	for _, entry := range got.Environment {
		if name, _, _ := strings.Cut(entry, "="); !slices.Contains(passedOn, name) {
			t.Errorf("it has %s", entry)
		}
	}
	var caller unix.Stat_t
	if err := unix.Fstat(fd, &caller); err != nil {
		t.Fatal(err)
	}
	for at, file := range got.Open {
		if file == fmt.Sprint(caller.Dev, caller.Ino) {
			t.Errorf("descriptor %d is the caller's", at)
		}
	}
	if got.Core != 0 || got.NoNewPrivs != 1 || got.Effective != 0 {
		t.Errorf("core files of %d bytes, no_new_privs %d, capabilities %x", got.Core, got.NoNewPrivs, got.Effective)
	}
	if err := unix.Kill(l.Victim, 0); err != nil {
		t.Errorf("the victim: %v", err)
	}
}

// takeOver starts q, which is none, and returns when it has ended, with what it said.
func takeOver(t *testing.T, q *QEMU, cfg hypervisor.Config, o hypervisor.Options) (*VM, []byte) {
	t.Helper()
	var said bytes.Buffer
	o.Stderr = &said
	vm := start(t, q, cfg, o)
	if err := vm.Quit(t.Context()); err != nil {
		t.Fatal(err)
	}
	return vm, said.Bytes()
}

// TestTakenOverThawed: the memory that thawed VMs share is nobody's to change.
func TestTakenOverThawed(t *testing.T) {
	dir := t.TempDir()
	program := filepath.Join(dir, takenOver)
	copyProgram(t, program)
	l := plant(t)
	text, _ := json.Marshal(l)
	q := &QEMU{Path: program, Arch: runtime.GOARCH, Version: MinVersion}
	cfg := hypervisor.Config{Name: string(text), CPUs: 1, Memory: 8192 * 128, Kernel: "/k"}
	vm, said := takeOver(t, q, cfg, hypervisor.Options{Thaw: &hypervisor.State{Devices: l.Key, Memory: l.Memory}})
	if !(vm.origin != nil) {
		t.Skip("memory is not shared here")
	}
	got := read(t, said).Tried
	for _, name := range []string{"write the shared memory", "map the shared memory"} {
		if why := got[name]; why == "<nil>" || why == "" || why == "not opened" {
			t.Errorf("%s: %q", name, why)
		}
	}
	if got["copy the shared memory"] != "<nil>" {
		t.Errorf("it cannot have a copy of it: %s", got["copy the shared memory"])
	}
	if now, err := os.ReadFile(l.Memory); err != nil || !bytes.Equal(now, bytes.Repeat([]byte("m"), 8192)) {
		t.Errorf("it has changed: %v", err)
	}
}
