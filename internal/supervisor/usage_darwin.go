package supervisor

import (
	"fmt"
	"os/exec"
	"strconv"
	"strings"
	"time"
)

// usageOf asks ps(1), which does not tell what of the memory is shared.
func usageOf(pid int) (u processUsage, err error) {
	out, err := exec.Command("/bin/ps", "-o", "rss=,time=", "-p", strconv.Itoa(pid)).Output()
	if err != nil {
		return u, err
	}
	words := strings.Fields(string(out))
	if len(words) != 2 {
		return u, fmt.Errorf("ps says %q", out)
	}
	kib, err := strconv.ParseInt(words[0], 10, 64)
	if err != nil {
		return u, fmt.Errorf("ps says %q: %w", out, err)
	}
	u.own = kib << 10
	for part := range strings.SplitSeq(words[1], ":") { // hours, minutes, seconds
		n, err := strconv.ParseFloat(part, 64)
		if err != nil {
			return u, fmt.Errorf("ps says %q: %w", out, err)
		}
		u.cpu = u.cpu*60 + time.Duration(n*float64(time.Second))
	}
	return u, nil
}
