package logs

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
)

// However many lines a log begins with, it goes on with those that come.
func TestLogTail(t *testing.T) {
	for n, want := range map[int]string{-1: "a b c d e", 0: "c d e", 1: "b c d e", 2: "a b c d e", 9: "a b c d e"} {
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "init.log")
			write := func(text string) {
				t.Helper()
				file, err := os.OpenFile(path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
				if err != nil {
					t.Fatal(err)
				}
				defer file.Close()
				if _, err := file.WriteString(text); err != nil {
					t.Fatal(err)
				}
			}
			var out strings.Builder
			log := &tail{service: "init", path: path, out: &out}
			defer log.close()
			write("a\nb\n")
			if err := log.begin(n); err != nil {
				t.Fatal(err)
			}
			write("c\nd")
			if err := log.changed(false); err != nil {
				t.Fatal(err)
			}
			write("\n")
			if err := log.changed(false); err != nil {
				t.Fatal(err)
			}
			if err := os.Remove(path); err != nil { // rotated
				t.Fatal(err)
			}
			write("e\n")
			if err := log.changed(true); err != nil {
				t.Fatal(err)
			}
			if got := strings.Join(strings.Fields(strings.ReplaceAll(out.String(), "init       | ", "")), " "); got != want {
				t.Errorf("got %q, want %q", got, want)
			}
		})
	}
}

// A log of any length, whose lines are of any length, is not read whole.
func TestLongLogs(t *testing.T) {
	path := filepath.Join(t.TempDir(), "console.log")
	if err := os.WriteFile(path, []byte("begin\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(path, 8<<30); err != nil { // zeroes: one line
		t.Fatal(err)
	}
	file, err := os.OpenFile(path, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if _, err := file.WriteString("\nlast but one\n" + strings.Repeat("x", 2*maxLine) + "\n"); err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	log := &tail{service: "console", path: path, out: &out}
	defer log.close()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	if err := log.begin(2); err != nil {
		t.Fatal(err)
	}
	runtime.ReadMemStats(&after)
	want := "console    | last but one\nconsole    | " + strings.Repeat("x", maxLine) + fmt.Sprintf("… (%d bytes cut)\n", maxLine+1)
	if out.String() != want {
		t.Errorf("%d bytes are printed, want %d: %.100q", out.Len(), len(want), out.String())
	}
	if used := after.TotalAlloc - before.TotalAlloc; used > 4<<20 {
		t.Errorf("it took %d bytes", used)
	}
}
