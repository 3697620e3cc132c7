package qemu

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/hyve-vm/hyve/internal/confine"
	"github.com/hyve-vm/hyve/internal/hint"
	"github.com/hyve-vm/hyve/internal/hypervisor"
)

// VM is a running QEMU and, once it has ended, how it did.
//
// It is in a process group of its own, so that a Ctrl-C in the terminal is the
// caller's to act upon. It is deliberately not killed with its parent
// (PR_SET_PDEATHSIG): that follows the thread, not the process, which started
// it, and a guest is worth more than the process that watches it. QEMU does not
// notice when the other end of its monitor goes: a VM whose supervisor died
// runs on, unreachable, holding the machine's lock, until it is killed.
type VM struct {
	cmd     *exec.Cmd
	level   confine.Level
	cfg     hypervisor.Config
	fds     *descriptors
	arch    string
	origin  *os.File // what the memory began as; nil where that was nothing
	monitor *Client
	stderr  *tailWriter
	events  chan hypervisor.Event
	done    chan struct{}

	consoleRead chan struct{} // closed when the console has said all

	migrated chan string // how a migration ended

	mu       sync.Mutex
	shutdown ShutdownData // of the last SHUTDOWN
	quit     bool         // Quit or Kill was called
	lent     []int        // the descriptor sets of a freeze
	err      error
}

// Start implements hypervisor.Backend.
func (q *QEMU) Start(ctx context.Context, cfg hypervisor.Config, o hypervisor.Options) (*hypervisor.Instance, error) {
	vm, err := Start(ctx, q, cfg, o)
	if err != nil {
		return nil, err
	}
	return &hypervisor.Instance{VM: vm, PID: vm.PID(), SharesMemory: vm.origin != nil, Unconfined: gaps(vm.level), Events: vm.events}, nil
}

// Unconfined implements hypervisor.Backend.
func (q *QEMU) Unconfined() []string { return gaps(confine.Possible()) }

func gaps(level confine.Level) (lines []string) {
	for _, gap := range level.Gaps() {
		lines = append(lines, gap.String())
	}
	return lines
}

// Start starts QEMU and returns when the VM runs: every argument was accepted
// and the monitor answers. Otherwise the error is QEMU's own message, made
// readable, perhaps with a Hint; it is hypervisor.ErrRan if the guest may have run
// nevertheless. Cancelling ctx kills a QEMU whose guest has not begun to run; afterwards it
// means nothing.
func Start(ctx context.Context, q *QEMU, cfg hypervisor.Config, o hypervisor.Options) (*VM, error) {
	if o.Accel == "" {
		o.Accel = accelTCG
	}
	cfg.Incoming = o.Thaw != nil
	if features := q.Features(o.Accel); !cfg.Incoming && features.countsAsHost() {
		cfg.Cmdline = withTickRate(cfg.Cmdline, tickRate())
	}
	if err := Check(cfg); err != nil {
		return nil, err
	}
	ours, theirs, err := socketPair("monitor")
	if err != nil {
		return nil, fmt.Errorf("making QEMU's monitor: %w", err)
	}
	screen, console, err := socketPair("console")
	if err != nil {
		ours.Close()
		theirs.Close()
		return nil, fmt.Errorf("making the VM's console: %w", err)
	}
	vm := &VM{
		cfg:    cfg,
		fds:    descriptorsOf(cfg, q.Features(o.Accel)),
		arch:   q.Arch,
		stderr: &tailWriter{max: 16 << 10, next: o.Stderr},
		events: make(chan hypervisor.Event, eventBacklog),
		done:   make(chan struct{}),

		consoleRead: make(chan struct{}),

		migrated: make(chan string, 1),
	}
	err = vm.launch(ctx, q, o, theirs, console)
	theirs.Close()
	console.Close()
	if err != nil {
		ours.Close()
		screen.Close()
		return nil, fmt.Errorf("starting QEMU: %w", err)
	}
	vm.monitor = newClient(ours)
	go vm.readConsole(screen, o.Console)
	go vm.watch()
	if err := vm.monitor.handshake(ctx); err != nil {
		return nil, vm.startFailed(ctx, err)
	}
	if o.Thaw != nil {
		if err := vm.thaw(ctx, *o.Thaw, o.Take); err != nil {
			return nil, vm.startFailed(ctx, err)
		}
	}
	if ctx.Err() != nil {
		return nil, vm.startFailed(ctx, ctx.Err())
	}
	// Sent, it may be done whatever is heard of it.
	going, cancel := context.WithTimeout(context.WithoutCancel(ctx), goPatience)
	defer cancel()
	if err := vm.Resume(going); err != nil {
		err, refused := vm.startFailed(going, err), (*QMPError)(nil)
		if errors.As(err, &refused) {
			return nil, err
		}
		return nil, &marked{err, hypervisor.ErrRan}
	}
	return vm, nil
}

// goPatience bounds how long QEMU may take to let a guest go on.
const goPatience = time.Minute

// launch starts the process, with the other ends of monitor and console. One that is thawed shares
// with the file that its memory begins as what the guest does not change, where this
// system can guard that.
func (vm *VM) launch(ctx context.Context, q *QEMU, o hypervisor.Options, monitor, console *os.File) error {
	features := q.Features(o.Accel)
	files, err := Open(ctx, vm.cfg, features)
	if err != nil {
		return err
	}
	defer closeAll(files)
	plan := confine.Plan{
		Policy: q.policy(vm.cfg),
		Command: func() *exec.Cmd {
			cmd := exec.Command(q.Path, Args(vm.cfg, features)...)
			cmd.Dir = "/"
			cmd.Env = environment(os.Environ())
			cmd.Stderr = vm.stderr
			cmd.WaitDelay = time.Second
			cmd.ExtraFiles = slices.Concat([]*os.File{monitor, console}, files, o.ExtraFiles) // monitorFD, consoleFD, and on
			cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
			return cmd
		},
	}
	if o.Thaw != nil {
		origin, err := os.Open(o.Thaw.Memory)
		if err != nil {
			return err
		}
		vm.cfg.MemoryFile = o.Thaw.Memory
		if !q.copiesMemory {
			if vm.cmd, vm.level, err = startGuarded(plan, origin); err == nil {
				vm.origin = origin
				return nil
			}
		}
		origin.Close()
		vm.cfg.MemoryFile = ""
	}
	vm.cmd, vm.level, err = plan.Start()
	return err
}

func (vm *VM) startFailed(ctx context.Context, err error) error {
	if !errors.Is(err, ErrMonitorClosed) {
		_ = vm.Kill()
	}
	<-vm.done
	if ctx.Err() != nil {
		return fmt.Errorf("starting QEMU: %w", ctx.Err())
	}
	if cause := vm.Err(); cause != nil {
		return hint.With(fmt.Errorf("starting QEMU: %w", cause), hint.Of(cause))
	}
	return fmt.Errorf("starting QEMU: it ended at once: %w", err)
}

// watch passes events on until the monitor ends, then waits for the process.
func (vm *VM) watch() {
	for e := range vm.monitor.Events() {
		switch e.Name {
		case EventShutdown:
			vm.mu.Lock()
			_ = json.Unmarshal(e.Data, &vm.shutdown)
			vm.mu.Unlock()
		case eventMigration:
			vm.noteMigration(e)
			continue
		}
		select {
		case vm.events <- neutral(e):
		default:
		}
	}
	err := vm.cmd.Wait()
	select {
	case <-vm.consoleRead:
	case <-time.After(consolePatience):
	}
	vm.mu.Lock()
	vm.err = vm.exitCause(err)
	vm.mu.Unlock()
	if vm.origin != nil {
		vm.origin.Close()
	}
	close(vm.events)
	close(vm.done)
}

// consolePatience bounds the wait for the rest of what the console has said. It is in
// the socket already when QEMU has ended.
const consolePatience = 2 * time.Second

// readConsole passes on what the guest says.
func (vm *VM) readConsole(screen net.Conn, to io.Writer) {
	defer close(vm.consoleRead)
	defer screen.Close()
	buf := make([]byte, 32<<10)
	for {
		n, err := screen.Read(buf)
		if to != nil {
			_, _ = to.Write(buf[:n])
		}
		if err != nil {
			return
		}
	}
}

// PID is QEMU's process ID.
func (vm *VM) PID() int { return vm.cmd.Process.Pid }

// Done is closed when QEMU has ended.
func (vm *VM) Done() <-chan struct{} { return vm.done }

// Err says, once Done is closed, why QEMU ended: nil if the guest powered off
// or reset itself (see Shutdown), or Quit or Kill was called; otherwise the
// cause in one line, perhaps with a Hint.
func (vm *VM) Err() error {
	vm.mu.Lock()
	defer vm.mu.Unlock()
	return vm.err
}

// Shutdown is the last SHUTDOWN that QEMU reported; its Reason is empty if
// there was none. A guest that reboots, and one whose kernel panicked
// (panic=-1), both end with "guest-reset".
func (vm *VM) Shutdown() ShutdownData {
	vm.mu.Lock()
	defer vm.mu.Unlock()
	return vm.shutdown
}

// Events is closed when QEMU has ended. Events for which nobody reads are
// dropped after the first 256.
func (vm *VM) Events() <-chan hypervisor.Event { return vm.events }

// neutral is an event as whoever owns a VM understands it.
func neutral(e Event) hypervisor.Event {
	switch e.Name {
	case EventBlockIOError:
		return hypervisor.Event{Name: e.Name, Kind: hypervisor.DiskFailed, Cause: diskError(e)}
	case EventResume:
		return hypervisor.Event{Name: e.Name, Kind: hypervisor.WentOn}
	}
	return hypervisor.Event{Name: e.Name}
}

func diskError(event Event) error {
	var data BlockIOErrorData
	if json.Unmarshal(event.Data, &data) != nil || data.Reason == "" {
		return errors.New("the host's disk cannot be written")
	}
	return errors.New("the host's disk cannot be written: " + strings.ToLower(data.Reason))
}

// Monitor is the QMP connection, for what VM has no method for.
func (vm *VM) Monitor() *Client { return vm.monitor }

// ResizeDisk gives the disk of that serial another size in bytes, and its file with it. The
// guest hears of it.
func (vm *VM) ResizeDisk(ctx context.Context, serial string, size int64) error {
	arguments := opts{"node-name": serial, "size": size}
	if err := vm.monitor.Execute(ctx, "block_resize", arguments, nil); err != nil {
		return fmt.Errorf("resizing a disk: %w", err)
	}
	return nil
}

// socketPair returns two connected unix stream sockets, neither of which a
// child inherits by accident.
func socketPair(name string) (net.Conn, *os.File, error) {
	syscall.ForkLock.RLock()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM, 0)
	if err == nil {
		unix.CloseOnExec(fds[0])
		unix.CloseOnExec(fds[1])
	}
	syscall.ForkLock.RUnlock()
	if err != nil {
		return nil, nil, os.NewSyscallError("socketpair", err)
	}
	ours := os.NewFile(uintptr(fds[0]), name)
	theirs := os.NewFile(uintptr(fds[1]), name)
	conn, err := net.FileConn(ours)
	ours.Close()
	if err != nil {
		theirs.Close()
		return nil, nil, err
	}
	return conn, theirs, nil
}
