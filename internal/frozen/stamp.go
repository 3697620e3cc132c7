package frozen

import (
	"fmt"
	"os"
	"syscall"
)

// A stamp tells whether a file is the same and has not been written since. The
// time of the last change of the inode is in it, which no program can set: a copy
// restored from a backup has another, whatever its other times say. The device is
// not: its number may change when the host starts.
type stamp struct {
	Inode   uint64 `json:"inode"`
	Size    int64  `json:"size"`
	Written int64  `json:"written"` // nanoseconds since 1970
	Changed int64  `json:"changed"`
}

func stampOf(path string) (stamp, error) {
	info, err := os.Stat(path)
	if err != nil {
		return stamp{}, err
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return stamp{}, fmt.Errorf("looking at %s: no inode", path)
	}
	return stamp{
		Inode:   st.Ino,
		Size:    info.Size(),
		Written: info.ModTime().UnixNano(),
		Changed: changeTime(st),
	}, nil
}
