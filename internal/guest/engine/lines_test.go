package engine

import (
	"slices"
	"strings"
	"testing"
)

func TestReadLines(t *testing.T) {
	long := strings.Repeat("x", 3*maxLine)
	var got []string
	readLines(strings.NewReader("one\r\n\n"+long+"\nlast"), func(s string) { got = append(got, s) })
	if want := []string{"one", "", long[:maxLine], "last"}; !slices.Equal(got, want) {
		t.Errorf("readLines gave %d lines: %.80q", len(got), got)
	}
	var kept tail
	for i := range keptLines + 7 {
		kept.add(strings.Repeat("i", i))
	}
	if last := kept.last(1000); len(last) != keptLines || len(last[keptLines-1]) != keptLines+6 {
		t.Errorf("a tail keeps %d lines", len(last))
	}
}
