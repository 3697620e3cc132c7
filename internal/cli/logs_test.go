package cli

import (
	"fmt"
	"os"
	"path/filepath"
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
			tail := &logTail{service: "init", path: path, out: &out}
			defer tail.close()
			write("a\nb\n")
			if err := tail.begin(n); err != nil {
				t.Fatal(err)
			}
			write("c\nd")
			if err := tail.changed(false); err != nil {
				t.Fatal(err)
			}
			write("\n")
			if err := tail.changed(false); err != nil {
				t.Fatal(err)
			}
			if err := os.Remove(path); err != nil { // rotated
				t.Fatal(err)
			}
			write("e\n")
			if err := tail.changed(true); err != nil {
				t.Fatal(err)
			}
			if got := strings.Join(strings.Fields(strings.ReplaceAll(out.String(), "init       | ", "")), " "); got != want {
				t.Errorf("got %q, want %q", got, want)
			}
		})
	}
}
