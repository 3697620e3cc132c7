package engine

import (
	"bufio"
	"io"
	"strings"
	"sync"
)

// maxLine bounds one line of a service's log, in bytes; what is longer is cut.
const maxLine = 8 << 10

// keptLines is how many of its last lines a service keeps for the cause of its
// failure.
const keptLines = 200

// readLines calls each with every line of r, without its newline and at most
// maxLine long, until r ends. The rest of a longer line is dropped.
func readLines(r io.Reader, each func(string)) {
	br := bufio.NewReaderSize(r, maxLine)
	cut := false // the line goes on after what was passed on
	for {
		part, err := br.ReadSlice('\n')
		if len(part) > 0 && !cut {
			each(strings.TrimRight(string(part), "\r\n"))
		}
		cut = err == bufio.ErrBufferFull
		if err != nil && !cut {
			return
		}
	}
}

// A tail keeps the last keptLines lines it was given.
type tail struct {
	mu    sync.Mutex
	lines []string
}

func (t *tail) add(line string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.lines) >= keptLines {
		t.lines = append(t.lines[:0], t.lines[1:]...)
	}
	t.lines = append(t.lines, line)
}

// clear forgets what there was.
func (t *tail) clear() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.lines = nil
}

// last returns the last n lines.
func (t *tail) last(n int) []string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return append([]string(nil), t.lines[max(0, len(t.lines)-n):]...)
}
