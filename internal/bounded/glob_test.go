package bounded

import (
	"os"
	"path/filepath"
	"slices"
	"testing"
)

func TestGlob(t *testing.T) {
	root := t.TempDir()
	for _, name := range []string{"a?b", "acb", "a*b", "[a]", "a"} {
		if err := os.MkdirAll(filepath.Join(root, name, "sub", "x1"), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"a?b", "a*b", "[a]"} {
		dir := filepath.Join(root, name)
		got, err := Glob(dir, "sub/x*")
		if want := []string{filepath.Join(dir, "sub/x1")}; err != nil || !slices.Equal(got, want) {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
	if got, err := Glob(filepath.Join(root, "none"), "*"); err != nil || len(got) != 0 {
		t.Errorf("nowhere: %q, %v", got, err)
	}
}
