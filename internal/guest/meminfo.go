package guest

import (
	"strconv"
	"strings"
)

// meminfo returns the numbers in /proc/meminfo, in bytes.
func meminfo(text string) map[string]int64 {
	m := map[string]int64{}
	for line := range strings.Lines(text) {
		name, rest, ok := strings.Cut(line, ":")
		fields := strings.Fields(rest)
		if !ok || len(fields) == 0 {
			continue
		}
		if n, err := strconv.ParseInt(fields[0], 10, 64); err == nil {
			m[name] = n << 10 // all of them are in KiB
		}
	}
	return m
}
