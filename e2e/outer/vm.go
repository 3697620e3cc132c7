package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"
)

// What the outer VM has: half the memory of a CI machine, and one processor. With two, one
// waits for the other whenever the machine has something else to do, at each page that is
// shared, and a machine's thaw took three times as long.
const (
	cpus   = 1
	memory = "8G"
)

// ended begins the last line of a script's output.
const ended = "outer: ended with "

// alive is a line that comes every 15 seconds for as long as the outer VM's kernel runs its
// programs. standstill is how long that may be missing.
const (
	alive      = "outer: alive"
	standstill = 3 * time.Minute
)

// tick has the outer kernel's timer tick all the time. QEMU 10.0 can lose an interrupt where it
// emulates SVM: at each end of a guest's turn the processor's thread changes the set of pending
// interrupts without the lock under which devices add to it (do_vmexit; later releases do it
// atomically). A timer that is set anew by its own interrupt, which is the kernel's way, never
// comes again then, and nothing is scheduled any more: its vector was in the local APIC's IRR
// for minutes, while the processor ran with interrupts on. It came most often in tests whose
// guests ask a port in a loop, on a machine that had other work. A tick makes good for what
// the one before it has lost.
const tick = "nohz=off highres=off"

// errStandstill says that the outer VM has stood still: not even its own programs went on.
// Nothing inside can bring that about; see tick for what did.
var errStandstill = fmt.Errorf("the outer VM stands still, for %v", standstill)

// A statusError is how a script ended that did not succeed.
type statusError struct{ status string }

func (e *statusError) Error() string { return "the script ended with status " + e.status }

// boot boots the outer VM, has it run a step's script, which begins in the checkout's
// directory, passes on what that prints, and returns it. What the scripts of earlier boots
// left on the disk is there. It is a *statusError if the script ends with another status than
// 0, errStandstill, or an error if the VM ends before it.
func (o *outer) boot(ctx context.Context, s step, to io.Writer) ([]string, error) {
	if err := o.write("script", s.script); err != nil {
		return nil, err
	}
	console := filepath.Join(o.dir, "console.log")
	_ = os.Remove(console)
	cmd := exec.CommandContext(ctx, o.qemu, o.args(s.cpu, console)...)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	began := time.Now()
	defer func() {
		_ = cmd.Process.Kill() // if it has not ended
		_ = cmd.Wait()
		used := cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()
		fmt.Fprintf(to, "outer: the VM ran for %.0f s and had %.1f processors\n", time.Since(began).Seconds(), used.Seconds()/time.Since(began).Seconds())
	}()
	var lines []string
	var stands atomic.Bool
	watch := time.AfterFunc(standstill, func() {
		stands.Store(true)
		_ = cmd.Process.Kill()
	})
	defer watch.Stop()
	status := "never"
	for in := bufio.NewScanner(out); in.Scan(); {
		watch.Reset(standstill)
		line, beat := strings.CutSuffix(in.Text(), alive)
		if beat && line == "" {
			continue
		}
		if how, last := strings.CutPrefix(line, ended); last {
			status = how
			if s.cut {
				break
			}
			continue
		}
		lines = append(lines, line)
		fmt.Fprintln(to, line)
	}
	if stands.Load() {
		return lines, errStandstill
	}
	if status == "never" {
		return lines, fmt.Errorf("the outer VM ended before its script; its kernel's messages are in %s", console)
	}
	if status != "0" {
		return lines, &statusError{status}
	}
	return lines, nil
}

func (o *outer) args(cpu, console string) []string {
	disk := func(name, options string) []string {
		return []string{"-drive", "if=none,format=raw,cache=unsafe,id=" + name + ",file=" + filepath.Join(o.dir, name+".img") + options,
			"-device", "virtio-blk-pci,drive=" + name}
	}
	args := []string{
		"-nodefaults", "-no-user-config", "-no-reboot", "-display", "none",
		"-machine", "q35,usb=off,vmport=off,hpet=off,graphics=off",
		"-accel", "tcg,thread=multi,tb-size=1024", "-cpu", cpu, "-smp", fmt.Sprint(cpus), "-m", memory,
		"-kernel", filepath.Join(o.dir, "vmlinuz"), "-initrd", filepath.Join(o.dir, "initrd"),
		"-append", "console=ttyS0 quiet panic=-1 mitigations=off nokaslr tsc=reliable random.trust_cpu=on cryptomgr.notests " + tick + " work=" + o.root,
		"-chardev", "file,id=console,path=" + console, "-serial", "chardev:console",
		"-device", "virtio-serial", "-chardev", "file,id=output,path=/proc/self/fd/1", "-device", "virtserialport,chardev=output",
	}
	args = append(args, disk("root", ",snapshot=on")...)
	return append(args, disk("work", "")...)
}

// repaired is e2fsck's exit status after errors that it has mended.
const repaired = 1

func exitCode(err error) int {
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
		return exit.ExitCode()
	}
	return -1
}

// write puts a file into the checkout of the outer VM, which is not running.
func (o *outer) write(name, content string) error {
	path := filepath.Join(o.dir, name)
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		return err
	}
	work := filepath.Join(o.dir, "work.img")
	// What a power cut has left in its journal would be written over it.
	if out, err := exec.Command("e2fsck", "-p", work).CombinedOutput(); err != nil && exitCode(err) != repaired {
		return fmt.Errorf("repairing %s: %w: %s", work, err, out)
	}
	cmd := exec.Command("debugfs", "-w", "-f", "-", work)
	cmd.Stdin = strings.NewReader(fmt.Sprintf("rm %s\nwrite %q %s\n", name, path, name))
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("writing %s to %s: %w: %s", name, work, err, out)
	}
	return nil
}
