package machine

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
)

// MaxLog bounds a log file, in bytes. What would be more goes to a new one, and the file
// becomes NAME.1 in place of an older one. A machine has five logs, so they take 80 MiB
// at the most.
const MaxLog = 8 << 20

// RotateLog makes room in a log that is nearly full: its last line may have had none.
// Nobody writes to it.
func RotateLog(path string) error {
	const nearly = MaxLog - 16<<10
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) || err == nil && info.Size() <= nearly {
		return nil
	}
	if err == nil && info.Size() > MaxLog {
		err = os.Truncate(path, MaxLog) // of a hyve that did not bound it
	}
	if err == nil {
		err = os.Rename(path, path+".1")
	}
	if err != nil {
		return fmt.Errorf("rotating a log: %w", err)
	}
	return nil
}
