package supervisor

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"
)

func usageOf(pid int) (u processUsage, err error) {
	dir := fmt.Sprintf("/proc/%d/", pid)
	stat, err := os.ReadFile(dir + "stat")
	if err != nil {
		return u, err
	}
	if u.cpu, err = cpuTime(string(stat)); err != nil {
		return u, err
	}
	maps, err := os.ReadFile(dir + "smaps_rollup")
	if err != nil {
		return u, err
	}
	u.own, u.shared = memory(string(maps))
	return u, nil
}

// cpuTime reads proc_pid_stat(5): utime and stime are the 14th and 15th word, in ticks of
// a hundredth of a second. The second, in parentheses, is the program's name, with
// whatever is in it.
func cpuTime(stat string) (time.Duration, error) {
	words := strings.Fields(stat[strings.LastIndexByte(stat, ')')+1:])
	if len(words) < 13 {
		return 0, errors.New("its processor time cannot be read")
	}
	var ticks int64
	for _, word := range words[11:13] {
		n, err := strconv.ParseInt(word, 10, 64)
		if err != nil {
			return 0, fmt.Errorf("reading its processor time: %w", err)
		}
		ticks += n
	}
	return time.Duration(ticks) * time.Second / 100, nil
}

// memory adds up the lines of proc_pid_smaps_rollup(5), in KiB, that count.
func memory(maps string) (own, shared int64) {
	for line := range strings.Lines(maps) {
		name, rest, _ := strings.Cut(line, ":")
		value, _, _ := strings.Cut(strings.TrimSpace(rest), " ")
		n, err := strconv.ParseInt(value, 10, 64)
		if err != nil {
			continue
		}
		switch name {
		case "Private_Clean", "Private_Dirty":
			own += n << 10
		case "Shared_Clean", "Shared_Dirty":
			shared += n << 10
		}
	}
	return own, shared
}
