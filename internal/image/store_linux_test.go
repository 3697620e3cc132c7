package image

import (
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// A file that this user may not read is not called damaged: making the image anew
// would not help.
func TestUnreadable(t *testing.T) {
	s := open(t)
	img := commit(t, s, "amd64", "root")
	for _, file := range []string{img.Kernel(), filepath.Join(img.Dir, ManifestFile)} {
		if err := os.Chmod(file, 0); err != nil {
			t.Fatal(err)
		}
	}
	for dir := img.Dir; dir != filepath.Clean(os.TempDir()); dir = filepath.Dir(dir) {
		if err := os.Chmod(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	errs := make(chan error)
	go func() {
		// One thread gives root up, and ends with this goroutine.
		runtime.LockOSThread()
		if os.Getuid() == 0 {
			const same = ^uintptr(0)
			if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, same, 65534, same); errno != 0 {
				errs <- errno
				close(errs)
				return
			}
		}
		_, found := s.Find(img.Digest, "amd64")
		errs <- found
		errs <- s.Check(img)
	}()
	for range 2 {
		err := <-errs
		wantError(t, err, "permission denied")
		if err != nil && strings.Contains(err.Error(), "damaged") {
			t.Error(err)
		}
	}
}
