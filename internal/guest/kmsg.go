package guest

import (
	"strings"
)

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
