package frozen

import (
	"syscall"

	"golang.org/x/sys/unix"
)

func changeTime(st *syscall.Stat_t) int64 { return st.Ctimespec.Nano() }

// hostStart names the time since which the host has been up, differently each time; it is
// empty where nobody knows.
func hostStart() string {
	id, _ := unix.Sysctl("kern.bootsessionuuid")
	return id
}
