package supervisor

import (
	"fmt"
	"strings"
	"time"

	"github.com/hyve-vm/hyve/internal/control"
	"github.com/hyve-vm/hyve/internal/guestapi"
	"github.com/hyve-vm/hyve/internal/machine"
)

func (g *guest) handle(event guestapi.Event) {
	switch {
	case event.Log != nil:
		g.record(event.Log.Service.String(), event.Log.Line.String())
	case event.Phase != nil:
		name, now := event.Phase.Name.String(), time.Now()
		g.mu.Lock()
		// Nothing has ended in the future: the greeting took longer on its way than this.
		if born := now.Add(-event.Uptime); born.Before(g.born) {
			g.born = born
		}
		at := g.born.Add(event.Uptime)
		g.mu.Unlock()
		g.board.stepAt(name, activityAfter[name], at)
		switch name {
		case guestapi.PhaseContainerd:
			g.inbox.post(message{kind: warm})
		case guestapi.PhaseIdentity:
			g.inbox.post(message{kind: cameUp})
		}
	case event.EngineReady != nil:
		g.mu.Lock()
		thawing := g.thawing
		g.mu.Unlock()
		if !thawing { // it answers as somebody else
			g.inbox.post(message{kind: engineUp})
		}
	case event.EngineEnded != nil:
		g.inbox.post(message{kind: engineDown})
	case event.Failed != nil:
		g.fail(event.Failed)
	case event.PortOpened != nil:
		ack := g.ports.opened(event.PortOpened)
		if err := g.send(guestapi.Request{PortAck: &ack}); err != nil {
			g.log.Warn("answering for a port", "error", err)
		}
	case event.PortClosed != nil:
		g.ports.closed(event.PortClosed.ID)
	case event.OutOfMemory != nil:
		g.complain(describe(event.OutOfMemory))
	case event.DiskFull != nil:
		const line = "the machine's disk is almost full"
		g.log.Warn("room on the machine's disk", "free", machine.FormatSize(event.DiskFull.FreeBytes), "enough", event.DiskFull.Over)
		if event.DiskFull.Over {
			g.board.solved(line)
		} else {
			g.board.problem(line)
		}
	case event.Unreadable != nil:
		g.complain(fmt.Sprintf("images and containers that docker kept with %.20q are on the disk, and this engine cannot read them: "+
			"start the old machine and move them with hyve migrate", event.Unreadable.Driver.String()))
	case event.Busy != nil:
		g.inbox.post(message{kind: occupied, runs: event.Busy.Running})
	case event.PowerOff != nil:
		g.log.Info("guest powers off", "reboot", event.PowerOff.Reboot, "reason", event.PowerOff.Reason)
		g.inbox.post(message{kind: poweredOff, poweroff: event.PowerOff})
	case event.Reply != nil:
		g.replied(*event.Reply)
	}
}

// activityAfter is what a starting machine does after a phase has ended.
var activityAfter = map[string]string{
	guestapi.PhaseInit:       "Booting",
	guestapi.PhaseConfigured: "Starting the engine",
}

// fail passes on a failure. One that is fatal has the guest power off by itself.
func (g *guest) fail(failed *guestapi.Failed) {
	g.log.Error("guest reports a failure", "phase", failed.Phase, "cause", failed.Cause, "fatal", failed.Fatal)
	kind := trouble
	if failed.Fatal {
		kind = fatal
	}
	g.inbox.post(message{kind: kind, failure: failed})
}

// failureOf is what a guest reports, of which the second line is a way out.
func failureOf(failed *guestapi.Failed) *control.Failure {
	cause, more, _ := strings.Cut(failed.Cause.String(), "\n")
	hint, _, _ := strings.Cut(more, "\n")
	return &control.Failure{Phase: failed.Phase.String(), Cause: cause, Hint: hint}
}

func describe(kill *guestapi.OutOfMemory) string {
	if kill.Cgroup.String() != "" {
		return fmt.Sprintf("a container reached its memory limit and %s was killed", kill.Process)
	}
	return fmt.Sprintf("the machine ran out of memory and %s was killed", kill.Process)
}

// complain is trouble that the guest tells of.
func (g *guest) complain(line string) {
	g.log.Warn(line)
	g.board.complaint(line)
}

func (g *guest) trouble(line string) {
	g.log.Warn(line)
	g.board.problem(line)
}

// record writes a line of a guest's service into its log.
func (g *guest) record(service, line string) {
	g.mu.Lock()
	l := g.services[service]
	g.mu.Unlock()
	if l == nil { // a service of a newer image
		g.log.Info(line, "service", service)
		return
	}
	l.line(line)
}
