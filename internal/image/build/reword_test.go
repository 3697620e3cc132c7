package build

import (
	"strings"
	"testing"
)

func TestReword(t *testing.T) {
	root := newTree()
	crun := "\x7fELF\x00executable file `%s` not found%s\x00the path `%s` exists but it is not executable\x00other\x00"
	n := file(0o755, []byte(crun))
	n.uid = 7
	if err := root.put("usr/bin/crun", n); err != nil {
		t.Fatal(err)
	}
	unknown, err := reword(root)
	if err != nil || len(unknown) != 1 || !strings.Contains(unknown[0].Error(), "is not a regular file") {
		t.Errorf("unknown: %v, %v", unknown, err)
	}
	got, err := root.read("usr/bin/crun")
	want := "\x7fELF\x00\"%s\" executable file not found%s\x00exec: \"%s\": permission denied" + strings.Repeat("\x00", 17) + "other\x00"
	if err != nil || string(got) != want {
		t.Errorf("got %q, want %q, %v", got, want, err)
	}
	if n := root.get("usr/bin/crun"); n.mode != 0o755 || n.uid != 7 {
		t.Errorf("mode %o, owner %d", n.mode, n.uid)
	}
}

// A message that is longer would run into the next one, one with other arguments would
// read what is not there.
func TestMessagesFit(t *testing.T) {
	for _, m := range messages {
		if len(m.shall) > len(m.says) || strings.Count(m.shall, "%s") > strings.Count(m.says, "%s") || strings.Count(m.shall, "%") != strings.Count(m.shall, "%s") {
			t.Errorf("%q does not fit into %q", m.shall, m.says)
		}
	}
}
