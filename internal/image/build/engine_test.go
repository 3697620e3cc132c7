package build

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp"

	"github.com/hyve-vm/hyve/internal/image"
	"github.com/hyve-vm/hyve/internal/image/debian/debiantest"
)

func TestParseEngine(t *testing.T) {
	for s, want := range map[string]Engine{"": DefaultEngine, "stable": Stable, "newest": Newest, "28.5": "28.5", "26.1.5+dfsg1-9": "26.1.5+dfsg1-9"} {
		if e, err := ParseEngine(s); err != nil || e != want {
			t.Errorf("%q: %q, %v", s, e, err)
		}
	}
	for _, s := range []string{"latest", "v28", "28 5", "-1", "28\n", strings.Repeat("1", 100)} {
		_, err := ParseEngine(s)
		if err == nil || strings.Contains(err.Error(), "\n") {
			t.Errorf("%q: %v", s, err)
			continue
		}
		wantHint(t, err, "newest")
	}
}

func TestEngineMatches(t *testing.T) {
	for _, tt := range []struct {
		engine Engine
		docker string
		want   bool
	}{
		{"28", "28.5.2+dfsg4-5", true},
		{"28.5", "28.5.2+dfsg4-5", true},
		{"28.5.2", "28.5.2+dfsg4-5", true},
		{"28.5.2+dfsg4-5", "28.5.2+dfsg4-5", true},
		{"28.5.2+dfsg", "28.5.2+dfsg4-5", false},
		{"2", "28.5.2", false},
		{"28.5.20", "28.5.2", false},
		{"", "28.5.2", false},
		{Newest, "28.5.2", false},
	} {
		if got := tt.engine.Matches(tt.docker); got != tt.want {
			t.Errorf("%q and %q: %v", tt.engine, tt.docker, got)
		}
	}
}

func FuzzEngine(f *testing.F) {
	f.Add("28.5", "28.5.2+dfsg4-5")
	f.Fuzz(func(t *testing.T, s, docker string) {
		if e, err := ParseEngine(s); err == nil && e.Matches(docker) && !strings.HasPrefix(docker, s) {
			t.Errorf("%q is taken for %q", docker, s)
		}
	})
}

// twoReleases serves a base release whose engine is 26 and a next one whose engine is 28,
// which is good for so long.
func twoReleases(t *testing.T, good time.Duration) Options {
	t.Helper()
	o := testOptions(t, "amd64", nil)
	key := debiantest.Key(t)
	base := debiantest.Archive{Suite: baseRelease, Arch: "amd64", Date: testDate, Key: key, Debs: testDebs(t, "amd64")}
	next := debiantest.Archive{Suite: nextRelease, Arch: "amd64", Date: testDate, ValidUntil: testDate.Add(good), Key: key, Debs: testDebs(t, "amd64")}
	for i, d := range base.Debs {
		next.Debs[i].Version = "2.0-1"
		if d.Name == "docker.io" {
			base.Debs[i].Version, next.Debs[i].Version = "26.1.5+dfsg1-9", "28.5.2+dfsg4-5"
			next.Debs[i].Fields = map[string]string{"Depends": "procps (>= 2)"} // which the base does not have
		}
	}
	files := base.Files(t)
	for name, data := range next.Files(t) {
		files[name] = data
	}
	o.Mirror, o.Keys = debiantest.Serve(t, files, nil), openpgp.EntityList{key}
	return o
}

// Images of both engines stand beside each other, and only engine packages, and what they
// truly need, come from the next release.
func TestEngines(t *testing.T) {
	o := twoReleases(t, 24*time.Hour)
	recipe := func(e Engine) (string, error) { return recipeOf("amd64", e, bytes.NewReader(o.HyveInit)) }
	made := map[Engine]*image.Image{}
	for _, tt := range []struct {
		engine, is Engine
		docker     string
		suites     int
	}{
		{"26.1", Stable, "26.1.5+dfsg1-9", 1}, // without a look at the next release
		{Newest, Newest, "28.5.2+dfsg4-5", 2},
		{"28", Newest, "28.5.2+dfsg4-5", 2},
		{"", DefaultEngine, "26.1.5+dfsg1-9", 1},
	} {
		if tt.engine != "" {
			if img, err := find(o.Store, "amd64", tt.engine, recipe); made[tt.is] == nil && !errors.Is(err, image.ErrNotFound) {
				t.Errorf("%q before it was built: %v, %v", tt.engine, img, err)
			}
		}
		o.Engine = tt.engine
		img, err := Build(context.Background(), o)
		if err != nil {
			t.Fatalf("%q: %v", tt.engine, err)
		}
		m := img.Manifest
		if m.Docker != tt.docker || EngineOf(img) != tt.is || m.EngineSuite != tt.is.release() || len(m.Debian.Suites) != tt.suites ||
			m.Debian.Release != baseRelease || m.Debian.Version != "13.0" {
			t.Errorf("%q: %+v", tt.engine, m)
		}
		if before := made[tt.is]; before != nil && before.Digest != img.Digest {
			t.Errorf("%q: %s, and %s before", tt.engine, img.Digest, before.Digest)
		}
		made[tt.is] = img
		if found, err := find(o.Store, "amd64", tt.is, recipe); err != nil || found.Digest != img.Digest {
			t.Errorf("%q is not found: %v, %v", tt.engine, found, err)
		}
	}
	if found, err := find(o.Store, "amd64", "28.5", recipe); err != nil || found.Digest != made[Newest].Digest {
		t.Errorf("28.5: %v, %v", found, err)
	}
	if current, err := o.Store.Find("default", "amd64"); err != nil || current.Digest != made[DefaultEngine].Digest {
		t.Errorf("the default is %v, %v", current, err)
	}
	from := suitesOf(t, made[Newest])
	for name, suite := range from {
		want := baseRelease
		switch name {
		case "docker.io", "docker-cli", "docker-buildx", "containerd", "runc", "procps":
			want = nextRelease
		}
		if suite != want {
			t.Errorf("%s is of %s", name, suite)
		}
	}
	o.Engine = "27"
	_, err := Build(context.Background(), o)
	if err == nil || err.Error() != "there is no docker.io 27: the archive has 26.1.5+dfsg1-9 (stable, "+baseRelease+") and 28.5.2+dfsg4-5 (newest, "+nextRelease+")" {
		t.Fatalf("27: %v", err)
	}
	wantHint(t, err, "--engine")
}

// A mirror that is behind with the next release builds what does not need it, and says how to
// go on otherwise.
func TestExpiredRelease(t *testing.T) {
	o := twoReleases(t, time.Minute)
	o.Engine = Newest
	_, err := Build(context.Background(), o)
	if err == nil || !strings.Contains(err.Error(), nextRelease+"/InRelease: it expired at") {
		t.Fatalf("got %v", err)
	}
	wantHint(t, err, "--engine stable")
	if _, err := o.Store.Find("default", "amd64"); !errors.Is(err, image.ErrNotFound) {
		t.Errorf("something was built: %v", err)
	}
	for _, e := range []Engine{Stable, "26.1"} {
		o.Engine = e
		if _, err := Build(context.Background(), o); err != nil {
			t.Errorf("%s: %v", e, err)
		}
	}
}

// suitesOf returns what the bill of materials says of the packages' suites.
func suitesOf(t *testing.T, img *image.Image) map[string]string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(img.Dir, image.SBOMFile))
	if err != nil {
		t.Fatal(err)
	}
	var doc spdxDocument
	if err := json.Unmarshal(data, &doc); err != nil {
		t.Fatal(err)
	}
	from := map[string]string{}
	for _, p := range doc.Packages {
		if rest, ok := strings.CutPrefix(p.SourceInfo, "of the suite "); ok {
			from[p.Name], _, _ = strings.Cut(rest, ",")
		}
	}
	if len(from) < 20 {
		t.Errorf("the bill of materials says of %d packages where they came from", len(from))
	}
	return from
}
