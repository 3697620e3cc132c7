package machine

import (
	"fmt"
	"os"
)

// MaxLog bounds a log file, in bytes. A file that has reached it becomes NAME.1, in
// place of an older one.
const MaxLog = 10 << 20

// RotateLog renames a log that has reached its bound. Nobody writes to it.
func RotateLog(path string) error {
	info, err := os.Stat(path)
	if err != nil || info.Size() <= MaxLog {
		return nil
	}
	if err := os.Rename(path, path+".1"); err != nil {
		return fmt.Errorf("rotating a log: %w", err)
	}
	return nil
}
