package lifecycle

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
)

// holdersOf returns the processes of this user that have the lock at path open: nothing
// tells which of them hold it.
func holdersOf(path string) ([]process, error) {
	// lsof exits with 1 where nobody has the file open.
	out, err := exec.Command("/usr/sbin/lsof", "-t", path).Output()
	if exit := (*exec.ExitError)(nil); err != nil && !errors.As(err, &exit) {
		return nil, fmt.Errorf("running lsof: %w", err)
	}
	var holders []process
	for field := range strings.FieldsSeq(string(out)) {
		pid, err := strconv.Atoi(field)
		if err != nil || pid == os.Getpid() {
			continue
		}
		line, err := exec.Command("/bin/ps", "-ww", "-o", "args=", "-p", field).Output()
		if err != nil {
			continue // it has ended
		}
		holders = append(holders, process{pid, strings.Fields(string(line))})
	}
	return holders, nil
}
