package image

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// commit makes an image whose root has the given content.
func commit(t *testing.T, s *Store, arch, root string) *Image {
	t.Helper()
	return commitRecipe(t, s, arch, root, "")
}

func commitRecipe(t *testing.T, s *Store, arch, root, recipe string) *Image {
	t.Helper()
	d, err := s.Draft()
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	}()
	for name, text := range map[string]string{KernelFile: "kernel", InitrdFile: "initrd", RootFile: root} {
		if err := os.WriteFile(filepath.Join(d.Dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	img, err := d.Commit(Manifest{Arch: arch, Kernel: "6.12", Cmdline: "quiet", Recipe: recipe})
	if err != nil {
		t.Fatal(err)
	}
	return img
}

func open(t *testing.T) *Store {
	t.Helper()
	s, err := Open(filepath.Join(t.TempDir(), "store"))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// entries lists what is in the store's images directory.
func entries(t *testing.T, s *Store) []string {
	t.Helper()
	list, err := os.ReadDir(s.images())
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range list {
		names = append(names, e.Name())
	}
	return names
}

// wantError checks for one line with that text, and a hint.
func wantError(t *testing.T, err error, want string) {
	t.Helper()
	var h interface{ Hint() string }
	switch {
	case err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "\n"):
		t.Errorf("got %v, want one line with %q", err, want)
	case !errors.As(err, &h) || h.Hint() == "":
		t.Errorf("%v has no hint", err)
	}
}

// Two versions of hyve that take turns each find the image that they have made.
func TestFindRecipe(t *testing.T) {
	s := open(t)
	mine, theirs := commitRecipe(t, s, "amd64", "one", "mine"), commitRecipe(t, s, "amd64", "two", "theirs")
	commitRecipe(t, s, "arm64", "three", "foreign")
	for recipe, want := range map[string]*Image{"mine": mine, "theirs": theirs, "foreign": nil, "": nil} {
		switch img, err := s.FindRecipe(recipe, "amd64"); {
		case want == nil && !errors.Is(err, ErrNotFound):
			t.Errorf("%q: got %v, want ErrNotFound", recipe, err)
		case want != nil && (err != nil || img.Digest != want.Digest):
			t.Errorf("%q: got %v, %v", recipe, img, err)
		}
	}
	// Of several by one recipe it is the current one.
	again := commitRecipe(t, s, "amd64", "four", "mine")
	then := time.Now().Add(-time.Hour)
	if err := os.Chtimes(filepath.Join(again.Dir, ManifestFile), then, then); err != nil {
		t.Fatal(err)
	}
	if img, err := s.FindRecipe("mine", "amd64"); err != nil || img.Digest != again.Digest {
		t.Errorf("got %v, %v", img, err)
	}
}

func TestFind(t *testing.T) {
	s := open(t)
	_, err := s.Find("", "amd64")
	wantError(t, err, "no such image")
	if !errors.Is(err, ErrNotFound) {
		t.Error("it does not wrap ErrNotFound")
	}
	a, b := commit(t, s, "amd64", "one"), commit(t, s, "amd64", "two")
	other := commit(t, s, "arm64", "one")
	hex := strings.TrimPrefix(a.Digest, "sha256:")
	for ref, want := range map[string]*Image{
		"": b, "default": b, a.Digest: a, hex: a, hex[:10]: a, "sha256:" + hex[:10]: a,
	} {
		got, err := s.Find(ref, "amd64")
		if err != nil || got.Digest != want.Digest {
			t.Errorf("%q: got %+v, %v", ref, got, err)
		}
	}
	if got, err := s.Find("", "arm64"); err != nil || got.Digest != other.Digest {
		t.Errorf("arm64: %+v, %v", got, err)
	}
	_, err = s.Find(hex[:3], "amd64")
	wantError(t, err, "at least 4 digits")
	_, err = s.Find("../x", "amd64")
	wantError(t, err, "not a digest")
	_, err = s.Find(strings.Repeat("0", 64), "amd64")
	wantError(t, err, "no such image")
	if _, err := s.Find(hex, "arm64"); err == nil {
		t.Error("an image of another architecture was found")
	}
	if a.Manifest.Cmdline != "quiet" || a.Size() != int64(len("kernel"+"initrd"+"one")) {
		t.Errorf("cmdline %q, size %d", a.Manifest.Cmdline, a.Size())
	}
}

func TestRemove(t *testing.T) {
	s := open(t)
	a := commit(t, s, "amd64", "one")
	b := commit(t, s, "amd64", "two")
	if err := s.Remove(b.Digest); err != nil {
		t.Fatal(err)
	}
	if got, err := s.Find("", "amd64"); err != nil || got.Digest != a.Digest {
		t.Errorf("default is %+v, %v", got, err)
	}
	if err := s.Remove(a.Digest); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Find("", "amd64"); !errors.Is(err, ErrNotFound) {
		t.Errorf("got %v", err)
	}
	if left := entries(t, s); len(left) != 0 {
		t.Errorf("left: %v", left)
	}
}

func TestDraft(t *testing.T) {
	s := open(t)
	d, err := s.Draft()
	if err != nil {
		t.Fatal(err)
	}
	if list, err := s.List(); err != nil || len(list) != 0 {
		t.Errorf("a draft is listed: %v, %v", list, err)
	}
	// Another user of the store leaves a live draft alone …
	if _, err := Open(s.Dir()); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(d.Dir); err != nil {
		t.Error(err)
	}
	// … and clears it away once its maker is dead.
	if err := d.lock.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(s.Dir()); err != nil {
		t.Fatal(err)
	}
	if left := entries(t, s); len(left) != 0 {
		t.Errorf("left: %v", left)
	}
	// A draft that is closed leaves nothing.
	d, err = s.Draft()
	if err != nil {
		t.Fatal(err)
	}
	if err := d.Close(); err != nil {
		t.Error(err)
	}
	if left := entries(t, s); len(left) != 0 {
		t.Errorf("left: %v", left)
	}
}

func TestCommitTwice(t *testing.T) {
	s := open(t)
	a := commit(t, s, "amd64", "one")
	before, err := os.Stat(a.Root())
	if err != nil {
		t.Fatal(err)
	}
	b := commit(t, s, "amd64", "one")
	after, err := os.Stat(b.Root())
	if err != nil || a.Digest != b.Digest || !os.SameFile(before, after) {
		t.Errorf("the same image was replaced (%v)", err)
	}
	// A damaged one is replaced.
	damage(t, a.Root(), "0ne")
	c := commit(t, s, "amd64", "one")
	if err := s.Verify(context.Background(), c); err != nil || c.Digest != a.Digest {
		t.Errorf("after the repair: %v", err)
	}
	if got := entries(t, s); len(got) != 1 {
		t.Errorf("entries: %v", got)
	}
}

// damage overwrites a read-only file in place.
func damage(t *testing.T, file, text string) {
	t.Helper()
	if err := os.Chmod(file, 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(file, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteAt([]byte(text), 0); err != nil {
		t.Fatal(err)
	}
}

func TestCheck(t *testing.T) {
	s := open(t)
	ctx := context.Background()
	for _, tc := range []struct {
		name  string
		spoil func(img *Image)
		want  string
	}{
		{"kernel", func(i *Image) { damage(t, i.Kernel(), "x") }, "the SHA-256 of"},
		{"initrd shorter", func(i *Image) { _ = os.Chmod(i.Initrd(), 0o600); _ = os.Truncate(i.Initrd(), 2) }, "has 2 bytes, not 6"},
		{"root", func(i *Image) { damage(t, i.Root(), "x") }, "the SHA-256 of"},
		{"root missing", func(i *Image) { _ = os.Remove(i.Root()) }, "is missing"},
		{"root replaced", func(i *Image) { _ = os.Remove(i.Root()); _ = os.WriteFile(i.Root(), []byte("r00t"), 0o400) }, "the SHA-256 of"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			img := commit(t, s, "amd64", "root")
			for range 2 { // the second time by the stamp
				if err := s.Check(img); err != nil {
					t.Fatal(err)
				}
			}
			time.Sleep(20 * time.Millisecond) // beyond the file system's clock tick
			tc.spoil(img)
			wantError(t, s.Check(img), tc.want)
			wantError(t, s.Verify(ctx, img), tc.want)
			if !strings.Contains(s.Check(img).Error(), "is damaged") {
				t.Error("it does not say damaged")
			}
			if err := s.Remove(img.Digest); err != nil {
				t.Fatal(err)
			}
		})
	}
}

// Files that have not changed are not read again: their stamps are what decides.
func TestStamps(t *testing.T) {
	s := open(t)
	img := commit(t, s, "amd64", "root")
	if err := s.Check(img); err != nil {
		t.Fatal(err)
	}
	files := []string{KernelFile, InitrdFile, RootFile}
	for _, name := range files {
		// Damage that is stamped as verified is not looked at; Verify finds it.
		path := filepath.Join(img.Dir, name)
		damage(t, path, "X")
		have := img.readStamps()
		now, err := stampOf(path)
		if err != nil || len(have) != len(files) {
			t.Fatal(have, err)
		}
		have[name] = now
		img.writeStamps(have)
		if err := s.Check(img); err != nil {
			t.Errorf("%s was read although its stamp fits: %v", name, err)
		}
	}
	wantError(t, s.Verify(context.Background(), img), "the SHA-256 of")
	// One that does not fit has its own file hashed, and a damaged list all of them.
	img.writeStamps(stamps{})
	wantError(t, s.Check(img), "the SHA-256 of")
	if err := os.WriteFile(filepath.Join(img.Dir, stampFile), []byte("["), 0o600); err != nil {
		t.Fatal(err)
	}
	wantError(t, s.Check(img), "the SHA-256 of")
}

func TestManifestDamaged(t *testing.T) {
	s := open(t)
	good, bad := commit(t, s, "amd64", "one"), commit(t, s, "amd64", "two")
	damage(t, filepath.Join(bad.Dir, ManifestFile), "[")
	_, err := s.Find("", "amd64")
	wantError(t, err, "is damaged: the SHA-256 of")
	list, err := s.List()
	if err != nil || len(list) != 2 || list[0].Image == nil || list[0].Digest != good.Digest || list[1].Digest != bad.Digest {
		t.Fatalf("list %v, %v", list, err)
	}
	wantError(t, list[1].Err, "is damaged: the SHA-256 of")
	if err := os.Remove(filepath.Join(bad.Dir, ManifestFile)); err != nil {
		t.Fatal(err)
	}
	_, err = s.Find(bad.Digest, "amd64")
	wantError(t, err, "manifest.json is missing")
	if err := s.Remove(bad.Digest); err != nil {
		t.Fatal(err)
	}
	if img, err := s.Find("", "amd64"); err != nil || img.Digest != good.Digest {
		t.Errorf("default is %v, %v", img, err)
	}
}

func TestBuildLock(t *testing.T) {
	s := open(t)
	unlock, waited, err := s.BuildLock(context.Background(), "amd64", nil)
	if err != nil || waited {
		t.Fatalf("waited %v, %v", waited, err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	told := false
	if _, _, err := s.BuildLock(ctx, "amd64", func() { told = true }); !errors.Is(err, context.DeadlineExceeded) || !told {
		t.Errorf("got %v, told %v", err, told)
	}
	time.AfterFunc(50*time.Millisecond, unlock)
	second, waited, err := s.BuildLock(context.Background(), "amd64", nil)
	if err != nil || !waited {
		t.Fatalf("waited %v, %v", waited, err)
	}
	second()
}
