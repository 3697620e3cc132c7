package supervisor

import (
	"testing"

	"github.com/hyve-vm/hyve/internal/control"
)

// names of phases, kinds and actions, for those who read of a failure.
var (
	phaseNames = []string{"preparing", "starting", "cancelling", "condemned", "comingUp", "running", "busy", "dozing",
		"nodding", "asleep", "rousing", "stirring", "suspending", "leaving", "stopping", "over"}
	eventNames = []string{"prepared", "bootBegins", "booted", "thawed", "failed", "engineIsUp", "unfit", "trouble", "stuck",
		"wordStop", "wordKill", "wordSuspend", "wordCopy", "wordSettle", "quiet", "clientWaits", "finished", "isFrozen", "unfrozen",
		"gone", "again", "broken"}
)

func (p phase) String() string { return phaseNames[p] }

// A cell is what is done at an event in a phase, and where that leads.
type cell struct {
	to phase
	do action
}

// An inert event changes nothing in the phases that its row does not name.
const inert = nothing

// table is next, written down: of each event, what it does in each phase; and in all others,
// where it leads nowhere.
var table = []struct {
	event  kind
	in     map[phase]cell
	others action
}{
	{prepared, map[phase]cell{preparing: {starting, power}, cancelling: {over, inert}, condemned: {over, inert}}, inert},
	{bootBegins, map[phase]cell{rousing: {starting, inert}}, inert},
	{booted, map[phase]cell{starting: {comingUp, inert}, cancelling: {stopping, kill}, condemned: {stopping, kill}}, inert},
	{thawed, map[phase]cell{starting: {comingUp, inert}, rousing: {stirring, inert}, cancelling: {stopping, shutDown}, condemned: {stopping, kill}}, inert},
	{failed, map[phase]cell{preparing: {over, inert}, starting: {over, inert}, rousing: {over, inert}, cancelling: {over, inert}, condemned: {over, inert}}, inert},

	{engineIsUp, map[phase]cell{comingUp: {running, inert}, stirring: {running, inert}}, inert},
	{unfit, map[phase]cell{comingUp: {comingUp, kill}, stirring: {stirring, kill}}, inert},
	{trouble, map[phase]cell{comingUp: {stopping, giveUp}}, complain},
	{stuck, map[phase]cell{comingUp: {comingUp, unplug}}, makeRoom},

	{wordStop, map[phase]cell{
		preparing: {cancelling, abort}, starting: {cancelling, abort}, rousing: {cancelling, abort},
		comingUp: {stopping, shutDown}, running: {stopping, end}, stirring: {stopping, end},
		busy: {leaving, grant}, dozing: {leaving, grant}, suspending: {leaving, grant},
		nodding: {stopping, grant}, asleep: {over, grant},
	}, grant},
	{wordKill, map[phase]cell{
		preparing: {condemned, abort}, starting: {condemned, abort}, rousing: {condemned, abort}, cancelling: {condemned, abort},
		comingUp: {stopping, kill}, running: {stopping, kill}, busy: {stopping, kill}, dozing: {stopping, kill}, nodding: {stopping, kill},
		stirring: {stopping, kill}, suspending: {stopping, kill}, leaving: {stopping, kill}, stopping: {stopping, kill},
		asleep: {over, grant},
	}, grant},
	{wordSuspend, map[phase]cell{
		running: {suspending, suspend}, asleep: {rousing, rouse},
		busy: {busy, wait}, dozing: {dozing, wait}, nodding: {nodding, wait}, suspending: {suspending, wait}, rousing: {rousing, wait}, stirring: {stirring, wait},
	}, refuse},
	{wordCopy, map[phase]cell{
		running: {busy, copyVM}, asleep: {rousing, rouse},
		busy: {busy, wait}, dozing: {dozing, wait}, nodding: {nodding, wait}, suspending: {suspending, wait}, rousing: {rousing, wait}, stirring: {stirring, wait},
	}, refuse},
	{wordSettle, map[phase]cell{running: {busy, settle}, busy: {busy, wait}, dozing: {dozing, wait}, suspending: {suspending, wait}, stirring: {stirring, wait}}, grant},
	{quiet, map[phase]cell{running: {dozing, doze}}, notNow},
	{clientWaits, map[phase]cell{asleep: {rousing, power}, dozing: {dozing, wait}, nodding: {nodding, wait}}, inert},

	{finished, map[phase]cell{busy: {running, inert}, leaving: {stopping, end}}, inert},
	{isFrozen, map[phase]cell{dozing: {nodding, inert}, suspending: {stopping, inert}, leaving: {stopping, inert}}, inert},
	{unfrozen, map[phase]cell{dozing: {running, inert}, suspending: {running, inert}, leaving: {stopping, end}, stopping: {stopping, shutDown}}, inert},

	{gone, map[phase]cell{comingUp: {over, inert}, running: {over, inert}, stirring: {over, inert}, nodding: {asleep, inert}, stopping: {over, inert}}, inert},
	{again, map[phase]cell{comingUp: {starting, power}, running: {starting, power}, stirring: {starting, power}, nodding: {asleep, inert}, stopping: {over, inert}}, inert},
	{broken, map[phase]cell{comingUp: {over, inert}, running: {over, inert}, stirring: {over, inert}, nodding: {over, inert}, stopping: {over, inert}}, inert},
}

// Every event in every phase does what is written down, and nothing else.
func TestNext(t *testing.T) {
	if len(table) != events || len(eventNames) != events || len(phaseNames) != phases {
		t.Fatalf("%d rows and %d names for %d events, %d names for %d phases", len(table), len(eventNames), events, len(phaseNames), phases)
	}
	done := map[action]bool{}
	for i, row := range table {
		if int(row.event) != i {
			t.Errorf("row %d is of %s", i, eventNames[row.event])
		}
		for p := range phase(phases) {
			want, ok := row.in[p]
			if !ok {
				want = cell{p, row.others}
			}
			to, do := next(p, row.event)
			if (cell{to, do}) != want {
				t.Errorf("%s in %s leads to %s and does %d, want %s and %d", eventNames[row.event], p, to, do, want.to, want.do)
			}
			done[do] = true
		}
	}
	if len(done) != actions {
		t.Errorf("%d of %d actions are ever done", len(done), actions)
	}
}

// What holds of all transitions, whatever the table says.
func TestNextHolds(t *testing.T) {
	reached := map[phase]bool{preparing: true}
	for range phases {
		for p := range phase(phases) {
			for e := range kind(events) {
				to, do := next(p, e)
				if reached[p] {
					reached[to] = true
				}
				word := e >= wordStop && e <= wordSettle
				answers := do == refuse || do == grant || do == wait || do == rouse || do == abort || do == kill ||
					do == shutDown || do == end || do == copyVM || do == settle || do == suspend
				if word && !answers {
					t.Errorf("%s in %s is not answered", eventNames[e], p)
				}
				if p == over && to != over {
					t.Errorf("%s ends the end", eventNames[e])
				}
				if (e == wordStop || e == wordKill) && to.state() != control.Stopping && to != over {
					t.Errorf("%s in %s leads to %s", eventNames[e], p, to)
				}
				if p.state() == control.Stopping && to.state() != control.Stopping && to != over && !(p == suspending && e == unfrozen) {
					t.Errorf("%s in %s has a machine that stops be %s", eventNames[e], p, to)
				}
				// Who waits must have another chance.
				if do == wait && p.settled() {
					t.Errorf("%s waits in %s, where it is decided", eventNames[e], p)
				}
			}
		}
	}
	for p := range phase(phases) {
		if !reached[p] {
			t.Errorf("nothing leads to %s", p)
		}
	}
}
