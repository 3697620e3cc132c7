package lifecycle

import (
	"bytes"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
)

// flocked is how the kernel describes a descriptor that holds an exclusive lock.
// Those who merely ask for the lock share it for a moment.
var flocked = regexp.MustCompile(`(?m)^lock:.* FLOCK +\S+ +WRITE `)

// holdersOf returns the processes of this user that hold the lock at path.
func holdersOf(path string) ([]process, error) {
	target, err := os.Stat(path)
	if os.IsNotExist(err) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	descriptors, err := filepath.Glob("/proc/[0-9]*/fd/*")
	if err != nil {
		return nil, err
	}
	found := map[int]bool{os.Getpid(): true}
	var holders []process
	for _, fd := range descriptors {
		// Other users' processes cannot be read; they cannot hold our files either.
		if info, err := os.Stat(fd); err != nil || !os.SameFile(info, target) {
			continue
		}
		dir := filepath.Dir(filepath.Dir(fd))
		pid, err := strconv.Atoi(filepath.Base(dir))
		if err != nil || found[pid] {
			continue
		}
		about, err := os.ReadFile(filepath.Join(dir, "fdinfo", filepath.Base(fd)))
		if err != nil || !flocked.Match(about) {
			continue
		}
		line, err := os.ReadFile(filepath.Join(dir, "cmdline"))
		if err != nil {
			continue // it has ended
		}
		found[pid] = true
		holders = append(holders, process{pid, strings.Split(string(bytes.TrimRight(line, "\x00")), "\x00")})
	}
	return holders, nil
}
