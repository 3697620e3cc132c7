package lifecycle

import (
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/hyve-vm/hyve/internal/machine"
)

// Templates go with their image, and when nobody has used them for long.
func TestTemplatesGo(t *testing.T) {
	home := machine.Home(t.TempDir())
	const one, other = "sha256:0123456789abcdef", "sha256:fedcba9876543210"
	made := func(name string, age time.Duration) string {
		dir := filepath.Join(home.Templates(), name)
		if err := os.MkdirAll(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		then := time.Now().Add(-age)
		if err := os.Chtimes(dir, then, then); err != nil {
			t.Fatal(err)
		}
		return name
	}
	made(imagePrefix(one)+"a", 0)
	made(imagePrefix(one)+"b", 0)
	kept := []string{made(draftTemplate+"young", time.Minute), made(imagePrefix(other)+"a", keepTemplates-time.Hour)}
	made(imagePrefix(other)+"b", keepTemplates+time.Hour)
	made(draftTemplate+"old", keepDrafts+time.Minute)

	if err := RemoveTemplates(home, one); err != nil {
		t.Fatal(err)
	}
	sweepTemplates(home.Templates())
	entries, err := os.ReadDir(home.Templates())
	if err != nil {
		t.Fatal(err)
	}
	var left []string
	for _, e := range entries {
		left = append(left, e.Name())
	}
	if !slices.Equal(left, kept) {
		t.Errorf("left are %q, want %q", left, kept)
	}
}
