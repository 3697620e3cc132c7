package guest

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/hyve-vm/hyve/internal/guest/datadisk"
	"github.com/hyve-vm/hyve/internal/guest/engine"
	"github.com/hyve-vm/hyve/internal/guestapi"
)

// Bounds of a power-off's last steps.
const (
	killGrace    = 3 * time.Second
	flushTimeout = 3 * time.Second
)

// awaitPower ends the machine's context once its end is asked for, by the host,
// by a signal, or by a command.
func (g *guest) awaitPower(end context.CancelFunc) {
	// Ctrl-Alt-Del comes as SIGINT instead of an immediate reset; the others are
	// what init programs have always understood.
	unix.Reboot(unix.LINUX_REBOOT_CMD_CAD_OFF)
	signals := make(chan os.Signal, 4)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT, syscall.SIGPWR, syscall.SIGUSR1, syscall.SIGUSR2)
	var asked guestapi.PowerOff
	select {
	case asked = <-g.power:
	case s := <-signals:
		asked = guestapi.PowerOff{Reboot: s == syscall.SIGINT, Reason: guestapi.Textf("PID 1 received %s", unix.SignalName(s.(syscall.Signal)))}
	}
	end()
	g.power <- asked
}

// powerOff ends the machine cleanly: no new clients (their listeners went with
// the context), containers, engine, every other process, file systems, power.
func (g *guest) powerOff(p guestapi.PowerOff) {
	g.out.Logf("powering off: %s", p.Reason)
	g.note(g.engine.Stop())
	g.reaper.KillAll(killGrace)
	g.note(engine.ForgetDefaultBridge())
	unix.Sync()
	g.note(datadisk.Unmount())
	g.out.Put(guestapi.Event{PowerOff: &p})
	g.out.Flush(flushTimeout)
	how := unix.LINUX_REBOOT_CMD_POWER_OFF
	if p.Reboot {
		how = unix.LINUX_REBOOT_CMD_RESTART
	}
	unix.Reboot(how)
	select {} // the kernel takes a moment
}

// watchPowerButton takes a press of the ACPI power button, which is how a
// hypervisor asks politely, for the end of the machine.
func (g *guest) watchPowerButton() {
	var node string
	err := g.devices.await(g.ctx, func() bool {
		names, _ := filepath.Glob("/sys/class/input/event*/device/name")
		for _, path := range names {
			b, _ := os.ReadFile(path)
			event := strings.Split(path, "/")[4]
			if strings.TrimSpace(string(b)) == "Power Button" && exists("/dev/input/"+event) {
				node = "/dev/input/" + event
				return true
			}
		}
		return false
	})
	if err != nil {
		return
	}
	f, err := os.OpenFile(node, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		g.note(fmt.Errorf("opening the power button: %w", err))
		return
	}
	defer f.Close()
	// struct input_event: two longs of time, then type, code and value.
	const size, keyEvent, keyPower = 24, 1, 116
	buf := make([]byte, 16*size)
	for {
		n, err := f.Read(buf)
		if err != nil {
			return
		}
		for b := buf[:n]; len(b) >= size; b = b[size:] {
			var e struct {
				Time       [2]int64
				Type, Code uint16
				Value      int32
			}
			binary.Read(bytes.NewReader(b[:size]), binary.NativeEndian, &e)
			if e.Type == keyEvent && e.Code == keyPower && e.Value == 1 {
				g.askPower(guestapi.PowerOff{Reason: guestapi.NewText("the power button was pressed")})
			}
		}
	}
}
