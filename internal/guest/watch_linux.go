package guest

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/hyve-vm/hyve/internal/guest/process"
	"github.com/hyve-vm/hyve/internal/guestapi"
)

// followKernelLog tells the host of processes that the kernel killed for want of
// memory. It waits in reads of /dev/kmsg, which gives one record each.
func (g *guest) followKernelLog() {
	f, err := os.OpenFile("/dev/kmsg", os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		g.note(err)
		return
	}
	defer f.Close()
	f.Seek(0, io.SeekEnd)
	buf := make([]byte, 16<<10)
	for {
		n, err := f.Read(buf)
		if errors.Is(err, syscall.EPIPE) {
			continue // records were overwritten before they were read
		}
		if err != nil {
			g.note(err)
			return
		}
		if kill, ok := parseOOMKill(string(buf[:n])); ok {
			g.out.Put(guestapi.Event{OutOfMemory: &guestapi.OutOfMemory{Process: guestapi.NewText(kill.process), Cgroup: guestapi.NewText(kill.cgroup)}})
		}
	}
}

// bootsyncTimeout bounds the hook that dockerd waits for.
const bootsyncTimeout = 2 * time.Minute

// hookDir is where boot2docker's users keep what they run at boot.
const hookDir = "/var/lib/boot2docker"

// runHook runs one of the user's scripts, if there is one, and waits for it: at
// most for bound, then it goes on in the background. A bound of 0 is none.
func (g *guest) runHook(name string, bound time.Duration) {
	path := filepath.Join(hookDir, name)
	if !exists(path) {
		return
	}
	done := make(chan struct{})
	g.spawn(func() {
		defer close(done)
		out, status, err := g.reaper.Output([]string{process.Path, "HOME=/root", "LANG=C.UTF-8"}, "/bin/sh", path)
		for line := range strings.Lines(out) {
			g.out.Logf("%s: %s", name, strings.TrimRight(line, "\n"))
		}
		if err != nil {
			g.note(err)
		} else if !status.Exited() || status.ExitStatus() != 0 {
			g.out.Logf("%s %s", name, process.Describe(status))
		}
	})
	var late <-chan time.Time
	if bound > 0 {
		late = time.After(bound)
	}
	select {
	case <-done:
	case <-late:
		g.out.Logf("%s still runs after %v; going on without it", name, bound)
	}
}
