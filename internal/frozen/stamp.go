package frozen

import (
	"errors"
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
	return stampFrom(info)
}

func stampFrom(info os.FileInfo) (stamp, error) {
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return stamp{}, fmt.Errorf("looking at %s: no inode", info.Name())
	}
	return stamp{
		Inode:   st.Ino,
		Size:    info.Size(),
		Written: info.ModTime().UnixNano(),
		Changed: changeTime(st),
	}, nil
}

// settle returns the stamp of a disk of which it has made sure that whatever is written
// to it from here on changes that. The times tell of the first write into a mapped page
// that is clean, but not of the next ones: so nobody may have it mapped, as check says.
// Where check cannot, the pages are made clean: a program that writes all the time can
// then still slip in a write before that.
func settle(disk *os.File, check func(*os.File) error) (stamp, error) {
	err := check(disk)
	if errors.Is(err, errors.ErrUnsupported) {
		err = disk.Sync()
	}
	if err != nil {
		return stamp{}, err
	}
	info, err := disk.Stat()
	if err != nil {
		return stamp{}, err
	}
	return stampFrom(info)
}
