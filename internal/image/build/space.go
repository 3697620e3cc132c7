package build

import (
	"fmt"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/hyve-vm/hyve/internal/hint"
)

// neededSpace is what a build writes to the store at most, in bytes: the
// unpacked packages once more than the image itself.
const neededSpace = 1200 << 20

var spaceNeeded = fmt.Sprintf("an image takes up to %d MB while it is built", neededSpace>>20)

// checkSpace makes sure that dir's disk has room, before minutes are spent.
func checkSpace(dir string, need uint64) error {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return nil // writing will tell
	}
	if free := uint64(st.Bavail) * uint64(st.Bsize); free < need {
		return hint.With(
			fmt.Errorf("building an image in %s: %d MB are free, %d MB are needed", dir, free>>20, need>>20),
			"free some space, or choose another disk for hyve's data",
		)
	}
	return nil
}

// serial makes a callback that runs one at a time and never tells less than
// before.
func serial(tell func(int64)) func(int64) {
	var mu sync.Mutex
	var last int64
	return func(n int64) {
		mu.Lock()
		defer mu.Unlock()
		if n >= last {
			last = n
			tell(n)
		}
	}
}
