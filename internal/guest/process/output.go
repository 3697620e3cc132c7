// Package process starts the guest's programs and collects every child that PID 1 has.
package process

import (
	"io"
	"strings"
)

// Path is the PATH of everything that runs in the guest, as a variable of its environment.
const Path = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// readTail reads r to its end and returns its last n bytes.
func readTail(r io.Reader, n int) string {
	var kept []byte
	buf := make([]byte, 4<<10)
	for {
		m, err := r.Read(buf)
		kept = append(kept, buf[:m]...)
		if len(kept) > 2*n {
			kept = append([]byte(nil), kept[len(kept)-n:]...)
		}
		if err != nil {
			break
		}
	}
	if len(kept) > n {
		kept = kept[len(kept)-n:]
	}
	return string(kept)
}

// LastLines returns the last n lines of text that hold anything.
func LastLines(text string, n int) string {
	var lines []string
	for line := range strings.Lines(text) {
		if line = strings.TrimSpace(line); line != "" {
			lines = append(lines, line)
		}
	}
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}
