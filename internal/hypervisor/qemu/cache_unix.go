//go:build unix

package qemu

import (
	"fmt"
	"os"
	"syscall"
)

func inode(info os.FileInfo) string {
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		return fmt.Sprintf("%d:%d", st.Dev, st.Ino)
	}
	return ""
}
