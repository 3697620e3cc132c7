package build

import (
	"context"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp"

	"github.com/hyve-vm/hyve/internal/image"
	"github.com/hyve-vm/hyve/internal/image/debian/debiantest"
)

// What the archive has mended since is told, and nothing else.
func TestUpdates(t *testing.T) {
	key := debiantest.Key(t)
	files := debiantest.Archive{Suite: baseRelease, Arch: "amd64", Date: testDate, Key: key, Debs: testDebs(t, "amd64")}.Files(t)
	publish := func(age time.Duration, debs ...debiantest.Deb) {
		a := debiantest.Archive{Suite: baseRelease + "-security", Arch: "amd64", Date: testDate.Add(age), Key: key, Debs: debs}
		for name, data := range a.Files(t) {
			files["debian-security/"+name] = data
		}
	}
	publish(0)
	var slow http.HandlerFunc
	mirror := debiantest.Serve(t, files, func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if slow != nil {
				slow(w, r)
			}
			next.ServeHTTP(w, r)
		})
	})
	store, err := image.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	now := func() time.Time { return testDate.Add(3 * time.Hour) }
	cache := t.TempDir()
	img, err := Build(t.Context(), Options{Store: store, CacheDir: cache, Arch: "amd64", HyveInit: guestInit(t, "amd64"),
		Mirror: mirror, Keys: openpgp.EntityList{key}, Now: now})
	if err != nil {
		t.Fatal(err)
	}
	if m := img.Manifest.Debian; m.NoSecurity || len(m.Suites) != 2 || m.Suites[1].Name != baseRelease+"-security" || !m.Suites[1].Date.Equal(testDate) {
		t.Errorf("the manifest says %+v", m)
	}
	check := Check{CacheDir: cache, Mirror: mirror, Keys: openpgp.EntityList{key}, Now: now}
	if got, err := check.Updates(t.Context(), img); err != nil || len(got) != 0 {
		t.Errorf("at first: %v, %v", got, err)
	}
	publish(time.Hour, debiantest.Deb{Name: "sudo", Version: "1.0+dfsg-1+deb13u1"}, debiantest.Deb{Name: "bash", Version: "0.9"},
		debiantest.Deb{Name: "bash", Version: "1.0+dfsg-1"}, debiantest.Deb{Name: "elsewhere", Version: "2"})
	got, err := check.Updates(t.Context(), img)
	if want := []Update{{"sudo", "1.0+dfsg-1", "1.0+dfsg-1+deb13u1"}}; err != nil || !slices.Equal(got, want) {
		t.Errorf("got %v, want %v, %v", got, want, err)
	}
	// An archive that is older than the one seen, gone or silent says nothing.
	publish(-time.Hour)
	if _, err := check.Updates(t.Context(), img); err == nil || !strings.Contains(err.Error(), "older than the one of") {
		t.Errorf("older: %v", err)
	}
	delete(files, "debian-security/dists/"+baseRelease+"-security/InRelease")
	if _, err := check.Updates(t.Context(), img); err == nil {
		t.Error("gone: no error")
	}
	slow = func(w http.ResponseWriter, r *http.Request) { <-r.Context().Done() }
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	began := time.Now()
	if _, err := check.Updates(ctx, img); err == nil || time.Since(began) > 5*time.Second {
		t.Errorf("silent: %v after %v", err, time.Since(began))
	}
}
