package cli

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"testing"

	"github.com/hyve-vm/hyve/internal/image"
	"github.com/hyve-vm/hyve/internal/image/build"
	"github.com/hyve-vm/hyve/internal/machine"
)

// A damaged image and those of the other architecture can be seen and removed, and
// hinder nobody.
func TestOddImages(t *testing.T) {
	home := machine.Home(t.TempDir())
	store, err := image.Open(home.ImagesDir())
	if err != nil {
		t.Fatal(err)
	}
	amd64, arm64, damaged := makeImage(t, store, "amd64"), makeImage(t, store, "arm64"), makeImage(t, store, "riscv64")
	if err := os.Remove(filepath.Join(damaged.Dir, image.ManifestFile)); err != nil {
		t.Fatal(err)
	}
	for _, step := range []struct {
		line   string
		ok     bool
		prints string // a pattern
	}{
		{"image ls", true, fmt.Sprintf(`(?s)%.12s +amd64 +outdated +stable .*%.12s +broken +image .* is damaged`, digits(amd64), digits(damaged))},
		{"image ls --format json", true, `"error": "image .* is damaged`},
		{"image verify " + amd64.Digest, true, "^" + amd64.Digest + " OK\n$"},
		{"image verify " + arm64.Digest[:20], true, "^" + arm64.Digest + " OK\n$"},
		{"image verify", false, "(?s)" + "OK\n.*OK\n"},
		{"image verify " + damaged.Digest, false, "^$"},
		{"image rm " + damaged.Digest[:20] + " " + arm64.Digest, true, "^$"},
		{"image verify", true, "^" + amd64.Digest + " OK\n$"},
	} {
		var out, errText bytes.Buffer
		root := newApp(map[string]string{"HYVE_HOME": string(home)}, &out, &errText).root()
		root.SetArgs(strings.Fields(step.line))
		if err := root.ExecuteContext(t.Context()); (err == nil) != step.ok {
			t.Errorf("%s: error %v", step.line, err)
		}
		if !regexp.MustCompile(step.prints).Match(out.Bytes()) {
			t.Errorf("%s printed %s, want %s", step.line, &out, step.prints)
		}
	}
}

func digits(img *image.Image) string { return strings.TrimPrefix(img.Digest, "sha256:") }

// Images that another hyve has made are outdated, and who uses them is told how to move.
func TestOutdatedImages(t *testing.T) {
	home := machine.Home(t.TempDir())
	store, err := image.Open(home.ImagesDir())
	if err != nil {
		t.Fatal(err)
	}
	img := makeImage(t, store, runtime.GOARCH)
	m := makeMachine(t, home, "m")
	if err := m.SetImage(img.Digest, ""); err != nil {
		t.Fatal(err)
	}
	if _, err := build.Recipe(runtime.GOARCH, build.Stable); err != nil {
		t.Skip(err) // this test binary has no guest in it
	}
	var out, errText bytes.Buffer
	root := newApp(map[string]string{"HYVE_HOME": string(home)}, &out, &errText).root()
	root.SetArgs([]string{"image", "ls"})
	if err := root.ExecuteContext(t.Context()); err != nil {
		t.Fatal(err)
	}
	if !regexp.MustCompile(fmt.Sprintf(`%.12s +\S+ +outdated +stable .* m\n`, digits(img))).Match(out.Bytes()) {
		t.Errorf("listed as %s", &out)
	}
	if !strings.Contains(errText.String(), "hyve upgrade m\n") {
		t.Errorf("said %q", &errText)
	}
}
