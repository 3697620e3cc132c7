package machine

import (
	"errors"
	"os"
	"strings"
	"testing"
)

// Whatever stands in an upgrade's description, it names an image or is an error of one
// line with a way out.
func FuzzUpgrade(f *testing.F) {
	f.Add(`{"image": "sha256:00", "engine": "stable"}`)
	f.Add(`{"image": ""}`)
	dir := Dir(f.TempDir())
	if err := os.Mkdir(string(dir.upgrade()), 0o700); err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, text string) {
		if err := os.WriteFile(dir.upgrade().upgradeFile(), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		u, err := dir.Upgrade()
		var hinted interface{ Hint() string }
		switch {
		case err == nil && (u == nil || u.Image == "" || u.Dir != dir.upgrade()):
			t.Errorf("%q is %+v", text, u)
		case err != nil && (!errors.As(err, &hinted) || strings.Contains(err.Error(), "\n")):
			t.Errorf("%q: %v", text, err)
		}
	})
}
