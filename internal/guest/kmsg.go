package guest

import (
	"strconv"
	"strings"
)

// kernWarning is the mildest level at which the kernel complains (linux/kern_levels.h).
const kernWarning = 4

// harmless are what the kernel complains of when its host is busy, or of a clock that it does
// not go by, each by a part of the line and why it says nothing against a thaw. The clock that
// it goes by the host compares with its own.
//
// With KVM a thaw leaves the processor's counter, the TSC, ahead of kvm-clock: the hypervisor sets
// the counter when it loads the state, and kvm-clock when the guest goes on, so the counter has
// counted what lies between (54 ms where KVM is itself emulated; the kernel minds half a
// millisecond, which it may be on hardware as well). Where that is the clock in use a last line
// says so, which is none of these: "'tsc' is current clocksource".
var harmless = []struct{ part, why string }{
	{"hrtimer: interrupt took ", "the host had other work while a timer was served"},
	{"perf: interrupt took too long ", "the same, for sampling"},
	{" hogged CPU for >", "a piece of the kernel's own work took more than 10 ms, as many do in emulation"},
	{"Long readout interval, skipping watchdog check", "the host had other work between two looks at a clock, which are then not compared"},
	{" times before success", "the same, and it was looked at again"},
	{"Marking clocksource 'tsc' as unstable", "another line says whether it is the clock in use"},
	{"' wd_nsec: ", "figures of that"},
	{"' cs_nsec: ", "figures of that"},
	{"Clocksource 'tsc' skewed ", "figures of that"},
	{"(not 'tsc') is current clocksource", "it is not"},
	{"TSC found unstable after boot", "the scheduler does without it as well"},
}

// parseComplaint reads a record of /dev/kmsg (see parseOOMKill) and returns what it says, if
// that is the kernel's own word, a warning or worse, and none of harmless.
func parseComplaint(record string) (string, bool) {
	head, text, ok := strings.Cut(record, ";")
	if !ok {
		return "", false
	}
	priority, _, _ := strings.Cut(head, ",")
	// Three bits of level, above which is whose word it is: 0 is the kernel.
	level, err := strconv.ParseUint(priority, 10, 32)
	if err != nil || level > kernWarning {
		return "", false
	}
	text, _, _ = strings.Cut(text, "\n")
	for _, h := range harmless {
		if strings.Contains(text, h.part) {
			return "", false
		}
	}
	return text, text != ""
}

// An oomKill is what the kernel logs when it kills a process for want of memory.
type oomKill struct {
	process string
	cgroup  string // whose bound it was; empty if the whole machine's memory ran out
}

// parseOOMKill reads a record of /dev/kmsg, "PRIORITY,SEQUENCE,TIME,…;text" (see
// the kernel's Documentation/ABI/testing/dev-kmsg), and says whether it is the
// summary of a kill:
//
//	oom-kill:constraint=CONSTRAINT_MEMCG,…,oom_memcg=/docker/x,task_memcg=/docker/x,task=NAME,pid=1,uid=0
func parseOOMKill(record string) (oomKill, bool) {
	_, text, ok := strings.Cut(record, ";")
	if !ok {
		return oomKill{}, false
	}
	text, _, _ = strings.Cut(text, "\n")
	summary, ok := strings.CutPrefix(text, "oom-kill:")
	if !ok {
		return oomKill{}, false
	}
	var k oomKill
	// A process may have commas in its name: it ends at ",pid=".
	if _, rest, ok := strings.Cut(summary, ",task="); ok {
		if i := strings.LastIndex(rest, ",pid="); i >= 0 {
			k.process = rest[:i]
		}
	}
	for field := range strings.SplitSeq(summary, ",") {
		if v, ok := strings.CutPrefix(field, "oom_memcg="); ok {
			k.cgroup = v
			break
		}
	}
	return k, k.process != ""
}
