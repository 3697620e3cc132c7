package guest

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/hyve-vm/hyve/internal/guestapi"
)

// userGroups are the control groups of all that runs for the user: the sessions' and,
// below the one that dockerd makes, the containers'.
var userGroups = []string{cgroupHyve + "/users", cgroupRoot + "/docker"}

// anythingRuns tells whether any process is in them.
func anythingRuns() (bool, error) {
	for _, group := range userGroups {
		b, err := os.ReadFile(filepath.Join(group, "cgroup.events"))
		if err != nil {
			return false, fmt.Errorf("looking for processes: %w", err)
		}
		if strings.Contains(string(b), "populated 1") {
			return true, nil
		}
	}
	return false, nil
}

// tellBusy tells the host whether anything runs.
func (g *guest) tellBusy() {
	running, err := anythingRuns()
	if err != nil {
		g.note(err)
		return
	}
	g.out.Put(guestapi.Event{Busy: &guestapi.Busy{Running: running}})
	if running {
		g.note(g.memory.start())
	}
}

// watchBusy tells the host when that changes: the kernel tells of it as of a change of
// the groups' files.
func (g *guest) watchBusy() {
	g.note(g.followGroups())
}

func (g *guest) followGroups() error {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC)
	if err != nil {
		return fmt.Errorf("watching processes: %w", err)
	}
	watch := os.NewFile(uintptr(fd), "inotify")
	defer watch.Close()
	for _, group := range userGroups {
		if _, err := unix.InotifyAddWatch(fd, filepath.Join(group, "cgroup.events"), unix.IN_MODIFY); err != nil {
			return fmt.Errorf("watching processes: %w", err)
		}
	}
	g.tellBusy()
	buf := make([]byte, 4<<10)
	for {
		// What changed does not matter.
		if _, err := watch.Read(buf); err != nil && !errors.Is(err, unix.EINTR) {
			return fmt.Errorf("watching processes: %w", err)
		}
		g.tellBusy()
	}
}
