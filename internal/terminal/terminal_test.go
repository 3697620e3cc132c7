package terminal

import (
	"bytes"
	"io"
	"os"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"github.com/creack/pty"
)

var samples = []struct{ in, want string }{
	{"plain\ttext, é 漢 👍\n", "plain\ttext, é 漢 👍\n"},
	{"\x1b]0;title\a\x1b[2J\r\b\x00\x7f", "^[]0;title^G^[[2J^M^H^@^?"},
	{"\u009b2J \x9b2J \xff", `\x9b2J \x9b2J \xff`},
	{"a\u202eb\u2066c\u200ed\u2028e\ufefff\U000e0041", `a\u202eb\u2066c\u200ed\u2028e\ufefff\ue0041`},
}

func TestCleaner(t *testing.T) {
	for _, s := range samples {
		for step := 1; step <= len(s.in); step++ { // cut anywhere
			var b bytes.Buffer
			c := &cleaner{to: &b}
			for rest := s.in; rest != ""; {
				n := min(step, len(rest))
				if m, err := c.Write([]byte(rest[:n])); m != n || err != nil {
					t.Fatal(m, err)
				}
				rest = rest[n:]
			}
			if b.String() != s.want {
				t.Errorf("%q by %d bytes is %q, want %q", s.in, step, b.String(), s.want)
			}
		}
	}
}

// A terminal is cleaned, a pipe is not.
func TestClean(t *testing.T) {
	const evil = "\x1b]52;c;AAAA\a"
	ours, theirs, err := pty.Open()
	if err != nil {
		t.Fatal(err)
	}
	defer ours.Close()
	defer theirs.Close()
	w := Clean(theirs)
	io.WriteString(w, evil+"\n")
	buf := make([]byte, 100)
	n, err := ours.Read(buf)
	if got := string(buf[:n]); err != nil || strings.ContainsRune(got, 0x1b) || !strings.HasPrefix(got, "^[]52;") {
		t.Errorf("on a terminal: %q, %v", got, err)
	}
	if Raw(w) != theirs {
		t.Error("the terminal itself is not to be had")
	}
	r, p, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	io.WriteString(Clean(p), evil)
	p.Close()
	if got, err := io.ReadAll(r); err != nil || string(got) != evil || Raw(p) != p {
		t.Errorf("in a pipe: %q, %v", got, err)
	}
}

func FuzzCleaner(f *testing.F) {
	for _, s := range samples {
		f.Add([]byte(s.in))
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		var b bytes.Buffer
		(&cleaner{to: &b}).Write(in)
		for _, r := range b.String() {
			if r != '\n' && r != '\t' && (unicode.IsControl(r) || moves(r)) {
				t.Fatalf("%q in %q", r, b.String())
			}
		}
		if !utf8.Valid(b.Bytes()) {
			t.Fatalf("%q", b.String())
		}
	})
}
