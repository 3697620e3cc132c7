package accept

import "golang.org/x/sys/unix"

// mostDescriptors bounds what Descriptors returns: some systems know no limit.
const mostDescriptors = 1 << 20

// Descriptors returns how many files this process may have open. Package os has raised
// that to the hard limit before main began, and children get the old limit back.
func Descriptors() int {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return 256 // macOS has no less
	}
	return int(min(limit.Cur, mostDescriptors))
}
