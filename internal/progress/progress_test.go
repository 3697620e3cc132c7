package progress

import (
	"bytes"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
	"unicode"

	"github.com/creack/pty"
)

func env(pairs ...string) func(string) string {
	return func(name string) string {
		for i := 0; i < len(pairs); i += 2 {
			if pairs[i] == name {
				return pairs[i+1]
			}
		}
		return ""
	}
}

// terminal returns a Progress on a make-believe terminal.
func onTerminal(w io.Writer, columns int, pairs ...string) *Progress {
	return &Progress{w: w, style: newStyle(env(pairs...)), live: true, width: func() int { return columns }}
}

func createMachine(p *Progress) {
	s := p.Stage("Verifying the image")
	time.Sleep(400 * time.Millisecond)
	s.Done("Verified the image")

	s = p.Stage("Downloading packages")
	for n := range 5 {
		s.Bytes(int64(n)*10e6, 50e6)
		s.Detail("libc6")
		time.Sleep(time.Second)
	}
	s.Done("Downloaded 50.0 MB")

	p.Print("warning: no virtualization here")

	s = p.Stage("Unpacking packages")
	time.Sleep(20 * time.Second)
	s.Done("")

	s = p.Stage("Starting the machine")
	time.Sleep(50 * time.Millisecond)
	s.Done("")

	s = p.Stage("Waiting for the engine")
	time.Sleep(65 * time.Second)
	s.Fail()
	s.Done("never said")
	p.Close()
}

func TestPlain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		createMachine(New(&out))
		want := `Verified the image (0.4s)
Downloading packages...
Downloaded 50.0 MB (5.0s)
warning: no virtualization here
Unpacking packages...
Starting the machine (0.1s)
Waiting for the engine...
Waiting for the engine: failed (1m05s)
`
		if out.String() != want {
			t.Errorf("got:\n%s\nwant:\n%s", out.String(), want)
		}
	})
}

// screen returns the lines that a terminal shows in the end, and every state of
// the live line on the way.
func screen(t *testing.T, output string) (lines, states []string) {
	t.Helper()
	lines = []string{""}
	for len(output) > 0 {
		last := &lines[len(lines)-1]
		switch {
		case strings.HasPrefix(output, "\r\x1b[K"):
			*last, output = "", output[4:]
		case strings.HasPrefix(output, "\x1b[K"):
			states, output = append(states, *last), output[3:]
		case output[0] == '\r':
			*last, output = "", output[1:]
		case output[0] == '\n':
			lines, output = append(lines, ""), output[1:]
		case output[0] < ' ' && output[0] != '\x1b':
			t.Fatalf("control character %q", output[0])
		default:
			*last += output[:1]
			output = output[1:]
		}
	}
	return lines, states
}

func TestTerminal(t *testing.T) {
	for name, test := range map[string]struct {
		env    []string
		want   string
		states []string // some of them
	}{
		"UTF-8": {[]string{"LANG", "C.UTF-8", "NO_COLOR", "1"}, `✓ Verified the image (0.4s)
✓ Downloaded 50.0 MB (5.0s)
warning: no virtualization here
✓ Unpacking packages (20s)
✓ Starting the machine (0.1s)
✗ Waiting for the engine (1m05s)
`, []string{"⠙ Verifying the image (0.2s)", " Downloading packages (2.5s, 20.0 MB of 50.0 MB, 8.0 MB/s) libc6", " Waiting for the engine (1m01s)"}},
		"ASCII": {[]string{"LC_ALL", "C", "LANG", "C.UTF-8", "NO_COLOR", "1"}, `[ok] Verified the image (0.4s)
[ok] Downloaded 50.0 MB (5.0s)
warning: no virtualization here
[ok] Unpacking packages (20s)
[ok] Starting the machine (0.1s)
[failed] Waiting for the engine (1m05s)
`, []string{"/ Verifying the image (0.2s)"}},
		"color": {[]string{"LC_CTYPE", "de_DE.utf8"}, "\x1b[32m✓\x1b[0m Verified the image (0.4s)\n" +
			"\x1b[32m✓\x1b[0m Downloaded 50.0 MB (5.0s)\nwarning: no virtualization here\n" +
			"\x1b[32m✓\x1b[0m Unpacking packages (20s)\n\x1b[32m✓\x1b[0m Starting the machine (0.1s)\n\x1b[31m✗\x1b[0m Waiting for the engine (1m05s)\n", nil},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var out bytes.Buffer
				createMachine(onTerminal(&out, 100, test.env...))
				lines, states := screen(t, out.String())
				if got := strings.Join(lines, "\n"); got != test.want {
					t.Errorf("got:\n%s\nwant:\n%s", got, test.want)
				}
				if len(states) > 10*91 {
					t.Errorf("the live line was drawn %d times in 90.5 s, at most 10 times a second are allowed", len(states))
				}
				for _, want := range test.states {
					if !slices.ContainsFunc(states, func(state string) bool { return strings.HasSuffix(state, want) }) {
						t.Errorf("the live line never was %q: %q", want, states)
					}
				}
			})
		})
	}
}

func TestConcurrentStages(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		p := onTerminal(&out, 80, "NO_COLOR", "1")
		image, disk := p.Stage("image"), p.Stage("disk")
		time.Sleep(150 * time.Millisecond)
		image.Done("")
		time.Sleep(100 * time.Millisecond)
		disk.Done("")
		time.Sleep(time.Hour)
		p.Stage("keys").Done("")
		last := p.Stage("last")
		time.Sleep(150 * time.Millisecond)
		p.Close()
		last.Done("")
		p.Stage("late").Done("")
		p.Print("late")
		time.Sleep(time.Hour)
		lines, states := screen(t, out.String())
		if got, want := strings.Join(lines, "\n"), "[ok] image (0.1s)\n[ok] disk (0.2s)\n[ok] keys (0.0s)\n"; got != want {
			t.Errorf("got:\n%s\nwant:\n%s", got, want)
		}
		if got, want := strings.Join(states, "\n"), "| image (0.1s)\n/ disk (0.2s)\n- last (0.1s)"; got != want {
			t.Errorf("live:\n%s\nwant:\n%s", got, want)
		}
	})
}

func TestPlainIsSilentAfterClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		p := New(&out)
		p.Stage("never announced")
		p.Close()
		p.Stage("late")
		time.Sleep(time.Hour)
		if out.Len() > 0 {
			t.Errorf("got %q", out.String())
		}
	})
}

func TestTextIsHarmless(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var plain, live bytes.Buffer
		const text = "a\x1b[2J\nb\r\u202ec é漢"
		for _, p := range []*Progress{New(&plain), onTerminal(&live, 80, "NO_COLOR", "1")} {
			s := p.Stage(text)
			s.Detail(text)
			time.Sleep(3 * time.Second)
			s.Done(text)
			p.Stage(text).Fail()
			p.Print(text)
			p.Close()
		}
		const cleaned = "a [2J b  c é漢"
		if want := cleaned + "...\n" + cleaned + " (3.0s)\n" + cleaned + ": failed (0.0s)\n" + cleaned + "\n"; plain.String() != want {
			t.Errorf("plain: %q, want %q", plain.String(), want)
		}
		screen(t, live.String()) // refuses control characters
		if strings.Contains(live.String(), "[ok] "+text) || !strings.Contains(live.String(), "[ok] a [2J b  c ?? (3.0s)") {
			t.Errorf("terminal: %q", live.String())
		}
	})
}

func TestConcurrentUse(t *testing.T) {
	p := onTerminal(io.Discard, 80)
	var wait sync.WaitGroup
	for i := range 8 {
		wait.Go(func() {
			s := p.Stage("stage")
			for n := range int64(1000) {
				s.Bytes(n, 1000)
				s.Detail("x")
			}
			p.Print("line")
			if i%2 == 0 {
				s.Done("")
			}
		})
	}
	wait.Wait()
	p.Close()
	p.Close()
	if len(p.active) > 0 {
		t.Error("stages are left after Close")
	}
}

func TestNewOnTerminals(t *testing.T) {
	master, tty, err := pty.Open()
	if err != nil {
		t.Skip(err)
	}
	defer master.Close()
	if err := pty.Setsize(master, &pty.Winsize{Rows: 24, Cols: 30}); err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	copied := make(chan struct{})
	go func() { io.Copy(&out, master); close(copied) }()

	t.Setenv("LC_ALL", "C.UTF-8")
	t.Setenv("NO_COLOR", "1")
	t.Setenv("TERM", "dumb")
	if New(tty).live {
		t.Error("a live line on a dumb terminal")
	}
	t.Setenv("TERM", "xterm")
	file, err := os.Create(filepath.Join(t.TempDir(), "file"))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if New(file).live {
		t.Error("a live line in a file")
	}

	p := New(tty)
	s := p.Stage("構築中 Building the guest image")
	s.Detail("🐳🐳🐳")
	time.Sleep(350 * time.Millisecond)
	s.Done("Built the image")
	p.Close()
	tty.Close()
	<-copied

	lines, states := screen(t, strings.ReplaceAll(out.String(), "\r\n", "\n"))
	if len(lines) != 2 || !strings.HasPrefix(lines[0], "✓ Built the image (0.") {
		t.Errorf("on the screen: %q", lines)
	}
	if len(states) == 0 {
		t.Error("no live line")
	}
	for _, state := range states {
		if !strings.HasSuffix(state, " 構築中 Building the guest i") { // 29 columns
			t.Errorf("cut to 30 columns: %q", state)
		}
	}
}

func TestCut(t *testing.T) {
	for _, test := range []struct {
		text    string
		columns int
		want    string
	}{
		{"abc", 3, "abc"}, {"abc", 2, "ab"}, {"abc", 0, ""}, {"abc", -1, ""},
		{"漢字", 4, "漢字"}, {"漢字", 3, "漢"}, {"漢字", 1, ""},
		{"e\u0301e\u0301", 1, "e\u0301"}, {"🐳x", 2, "🐳"}, {"\xff\xff", 1, "\xff"},
	} {
		if got := cut(test.text, test.columns); got != test.want {
			t.Errorf("%q to %d: got %q, want %q", test.text, test.columns, got, test.want)
		}
	}
}

func FuzzCut(f *testing.F) {
	f.Add("a\x1b漢é\u0301", 3, false)
	f.Fuzz(func(t *testing.T, text string, columns int, ascii bool) {
		cleaned := clean(text, ascii)
		if i := strings.IndexFunc(cleaned, func(r rune) bool { return unicode.IsControl(r) || ascii && r > 127 }); i >= 0 {
			t.Errorf("%q became %q", text, cleaned)
		}
		got, sum := cut(cleaned, columns), 0
		for _, r := range got {
			sum += width(r)
		}
		if !strings.HasPrefix(cleaned, got) || sum > max(columns, 0) {
			t.Errorf("%q to %d: %q, %d columns", cleaned, columns, got, sum)
		}
	})
}

func TestUnits(t *testing.T) {
	for d, want := range map[time.Duration]string{
		0: "0.0s", 9949 * time.Millisecond: "9.9s", 9950 * time.Millisecond: "10s",
		59499 * time.Millisecond: "59s", 59500 * time.Millisecond: "1m00s", 3601 * time.Second: "60m01s",
	} {
		if got := elapsed(d); got != want {
			t.Errorf("%v: got %s, want %s", d, got, want)
		}
	}
	for n, want := range map[int64]string{
		0: "0 B", 999: "999 B", 1000: "1.0 kB", 999_949: "999.9 kB", 999_950: "1.0 MB", 12_345_678: "12.3 MB", 5e12: "5.0 TB", 5e15: "5000.0 TB",
	} {
		if got := size(n); got != want {
			t.Errorf("%d: got %s, want %s", n, got, want)
		}
	}
}
