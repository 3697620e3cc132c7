// Package terminal keeps what others say from doing something to the user's terminal. A
// guest, an engine or a file on disk may name a process, a label or an error so that it
// sets the window's title, clears the screen or fills the clipboard where it is printed.
// All that hyve prints goes through here, but for what is meant to drive a terminal.
package terminal

import (
	"fmt"
	"io"
	"os"
	"sync"
	"unicode"
	"unicode/utf8"

	"golang.org/x/term"
)

// Clean returns where to print: the file itself or, where that is a terminal, a writer
// that makes visible what would do something to it. What goes into a pipe stays as it is.
func Clean(file *os.File) io.Writer {
	if !term.IsTerminal(int(file.Fd())) {
		return file
	}
	return &cleaner{to: file}
}

// Raw returns the file behind what Clean returned, for what draws on the terminal itself
// and for a guest's own terminal. Other writers are returned as they are.
func Raw(w io.Writer) io.Writer {
	if c, ok := w.(*cleaner); ok {
		return c.to
	}
	return w
}

// cleaner is a terminal's writer.
type cleaner struct {
	to io.Writer

	mu   sync.Mutex
	rest []byte // the beginning of a character
}

// Write implements io.Writer.
func (c *cleaner) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	in := append(c.rest, p...)
	out := make([]byte, 0, len(in))
	for len(in) > 0 && utf8.FullRune(in) {
		r, size := utf8.DecodeRune(in)
		out = appendVisible(out, r, in[:size])
		in = in[size:]
	}
	c.rest = append([]byte(nil), in...)
	if _, err := c.to.Write(out); err != nil {
		return 0, err
	}
	return len(p), nil
}

// appendVisible appends a character, or what shows it: ^[ as cat -v has it, \x9b, \u202e.
func appendVisible(out []byte, r rune, raw []byte) []byte {
	switch {
	case r == '\n' || r == '\t':
		return append(out, byte(r))
	case r < 0x20 || r == 0x7f:
		return append(out, '^', byte(r)^0x40)
	case r == utf8.RuneError && len(raw) == 1: // no UTF-8; some terminals take it as Latin-1
		return fmt.Appendf(out, `\x%02x`, raw[0])
	case r < 0xa0 && r > 0x7f:
		return fmt.Appendf(out, `\x%02x`, r)
	case moves(r):
		return fmt.Appendf(out, `\u%04x`, r)
	}
	return append(out, raw...)
}

// moves tells whether a character turns the writing around, breaks lines or is a tag that
// nobody sees. Those within words (joiners, soft hyphens) are none.
func moves(r rune) bool {
	switch r {
	case 0xad, 0x200c, 0x200d:
		return false
	}
	return unicode.In(r, unicode.Cf, unicode.Zl, unicode.Zp)
}
