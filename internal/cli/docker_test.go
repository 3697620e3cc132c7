package cli

import (
	"os/exec"
	"strings"
	"testing"
)

// A shell takes quoted words for what they were.
func TestQuoteWords(t *testing.T) {
	words := []string{"run", "--rm", "-e", "A=b c", "", "it's", "a\nb", `$HOME "x" \`, "*", "~", "ü", "{a,b}", "a;b"}
	out, err := exec.Command("sh", "-c", `printf '%s\0' `+quoteWords(words)).Output()
	if err != nil {
		t.Fatal(err)
	}
	if want := strings.Join(words, "\x00") + "\x00"; string(out) != want {
		t.Errorf("a shell reads %q, want %q", out, want)
	}
	if got := quoteWords([]string{"/usr/bin/qemu", "-m", "size=512M,slots=0"}); got != "/usr/bin/qemu -m size=512M,slots=0" {
		t.Errorf("quoted without need: %s", got)
	}
}
