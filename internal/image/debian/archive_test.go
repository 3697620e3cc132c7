package debian

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp"

	"github.com/hyve-vm/hyve/internal/image/debian/debiantest"
)

var testNow = time.Date(2026, 6, 1, 12, 0, 0, 0, time.UTC)

// quick are limits that a test can wait for.
var quick = Limits{Connect: time.Second, Header: 300 * time.Millisecond, Stall: 100 * time.Millisecond, Tries: 2, Backoff: time.Millisecond}

func testArchive(key *openpgp.Entity) debiantest.Archive {
	return debiantest.Archive{
		Suite: "trixie", Arch: "amd64", Date: testNow.Add(-time.Hour), Key: key,
		Debs: []debiantest.Deb{
			{Name: "app", Version: "1.0-1", Fields: map[string]string{"Depends": "libapp (>= 1)"},
				Files: []tar.Header{{Name: "./usr/bin/app", Mode: 0o755}}, Content: map[string]string{"./usr/bin/app": strings.Repeat("x", 100_000)}},
			{Name: "libapp", Version: "1.2", Files: []tar.Header{{Name: "./usr/lib/libapp.so", Mode: 0o644}}},
		},
	}
}

func openTest(t *testing.T, url, cache string, key *openpgp.Entity, change func(*Options)) (*Archive, error) {
	t.Helper()
	o := Options{
		Releases: []string{"trixie"}, Arch: "amd64", CacheDir: cache, Keys: openpgp.EntityList{key}, Limits: quick,
		Mirrors: []Mirror{{Archive: url, Security: url + "/security"}},
		Now:     func() time.Time { return testNow }, NoSecurity: true,
	}
	if change != nil {
		change(&o)
	}
	a, err := Open(context.Background(), o)
	if err == nil {
		t.Cleanup(func() { a.Close() })
	}
	return a, err
}

func TestArchive(t *testing.T) {
	key := debiantest.Key(t)
	files := testArchive(key).Files(t)
	security := testArchive(key)
	security.Suite, security.ValidUntil = "trixie-security", testNow.Add(time.Hour)
	security.Debs = security.Debs[1:]
	security.Debs[0].Version = "1.2+deb13u1"
	for name, data := range security.Files(t) {
		files["security/"+name] = data
	}
	var last Progress
	a, err := openTest(t, debiantest.Serve(t, files, nil), t.TempDir(), key, func(o *Options) {
		o.Progress, o.NoSecurity = func(p Progress) { last = p }, false
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(a.Releases) != 2 || a.Releases[0].Version != "13.0" {
		t.Errorf("releases %+v", a.Releases)
	}
	packages, err := Resolve(a.Index, []string{"app"}, nil, Pins{Release: "trixie"})
	if err != nil {
		t.Fatal(err)
	}
	if len(packages) != 2 || packages[1].Version != "1.2+deb13u1" {
		t.Fatalf("got %+v", packages)
	}
	debs, err := a.Download(context.Background(), packages)
	if err != nil {
		t.Fatal(err)
	}
	for i, p := range packages {
		data, err := os.ReadFile(debs[i])
		if sum := sha256.Sum256(data); err != nil || hex.EncodeToString(sum[:]) != p.Digest.SHA256 {
			t.Errorf("%s: %x, %v", p.Name, sum, err)
		}
	}
	if last.Done != last.Total || last.Total == 0 || last.Stage == "" {
		t.Errorf("last progress %+v", last)
	}
}

// TestRefused covers everything that must not be taken from a mirror.
func TestRefused(t *testing.T) {
	key, other := debiantest.Key(t), debiantest.Key(t)
	const release, index = "dists/trixie/InRelease", "dists/trixie/main/binary-amd64/Packages.xz"
	replace := func(name string, old, new string) func(map[string][]byte) {
		return func(f map[string][]byte) { f[name] = bytes.Replace(f[name], []byte(old), []byte(new), 1) }
	}
	for _, tc := range []struct {
		name    string
		archive func(*debiantest.Archive)
		files   func(map[string][]byte)
		want    string
	}{
		{"expired", func(a *debiantest.Archive) { a.ValidUntil = testNow.Add(-time.Minute) }, nil, "it expired at 2026-06-01T11:59:00Z"},
		{"from the future", func(a *debiantest.Archive) { a.Date = testNow.Add(48 * time.Hour) }, nil, "in the future"},
		{"wrong suite", func(a *debiantest.Archive) { a.Suite = "bookworm" }, func(f map[string][]byte) {
			f[release] = f["dists/bookworm/InRelease"]
		}, `it is the release "bookworm", not "trixie"`},
		{"unknown key", func(a *debiantest.Archive) { a.Key = other }, nil, "no signature is good"},
		{"tampered", nil, replace(release, "Version: 13.0", "Version: 13.9"), "no signature is good"},
		{"clock before the signature", nil, nil, "not valid at this computer's time, 2020-06-01"},
		{"unsigned", nil, func(f map[string][]byte) { f[release] = []byte("Codename: trixie\n") }, "not a signed message"},
		{"truncated", nil, func(f map[string][]byte) { f[release] = f[release][:len(f[release])*2/3] }, "cut short or damaged"},
		{"appended", nil, func(f map[string][]byte) { f[release] = append(f[release], "Codename: x\n"...) }, "something follows its signature"},
		{"index tampered", nil, func(f map[string][]byte) {
			for name, data := range f {
				if strings.Contains(name, "binary-amd64") {
					data = bytes.Clone(data)
					data[len(data)/2] ^= 1
					f[name] = data
				}
			}
		}, "its SHA-256 is not the signed one"},
		{"index truncated", nil, func(f map[string][]byte) {
			for name, data := range f {
				if strings.Contains(name, "binary-amd64") {
					f[name] = data[:len(data)/2]
				}
			}
		}, "bytes, not"},
		{"index missing", nil, func(f map[string][]byte) {
			for name := range f {
				if strings.Contains(name, "binary-amd64") {
					delete(f, name)
				}
			}
		}, index + ": not found (404)"},
		{"release missing", nil, func(f map[string][]byte) { delete(f, release) }, release + ": not found (404)"},
		{"too large", nil, func(f map[string][]byte) { f[release] = make([]byte, maxRelease+1) }, "larger than 8388608 bytes"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			a := testArchive(key)
			if tc.archive != nil {
				tc.archive(&a)
			}
			files := a.Files(t)
			if tc.files != nil {
				tc.files(files)
			}
			url := debiantest.Serve(t, files, nil)
			_, err := openTest(t, url, t.TempDir(), key, func(o *Options) {
				if tc.name == "clock before the signature" {
					o.Now = func() time.Time { return testNow.AddDate(-6, 0, 0) }
				}
			})
			if err == nil || !strings.Contains(err.Error(), tc.want) || !strings.Contains(err.Error(), url) {
				t.Errorf("got %v, want %q and the mirror's URL", err, tc.want)
			}
			if strings.Contains(errText(err), "\n") {
				t.Errorf("more than one line: %v", err)
			}
		})
	}
}

func errText(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

func TestRolledBack(t *testing.T) {
	key, cache := debiantest.Key(t), t.TempDir()
	a := testArchive(key)
	if x, err := openTest(t, debiantest.Serve(t, a.Files(t), nil), cache, key, nil); err != nil {
		t.Fatal(err)
	} else {
		x.Close()
	}
	a.Date = a.Date.Add(-time.Minute)
	_, err := openTest(t, debiantest.Serve(t, a.Files(t), nil), cache, key, nil)
	if err == nil || !strings.Contains(err.Error(), "lags behind or was rolled back") {
		t.Fatalf("got %v", err)
	}
	var h interface{ Hint() string }
	if !errors.As(err, &h) || h.Hint() == "" {
		t.Errorf("no hint in %v", err)
	}
	a.Date = a.Date.Add(2 * time.Minute)
	if _, err := openTest(t, debiantest.Serve(t, a.Files(t), nil), cache, key, nil); err != nil {
		t.Errorf("a newer one: %v", err)
	}
}

// TestSlowMirrors makes sure that no mirror can hang a build.
func TestSlowMirrors(t *testing.T) {
	key := debiantest.Key(t)
	files := testArchive(key).Files(t)
	hang := func(before func(http.ResponseWriter)) func(http.Handler) http.Handler {
		return func(http.Handler) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				before(w)
				select {
				case <-r.Context().Done():
				case <-time.After(5 * time.Second):
				}
			})
		}
	}
	for _, tc := range []struct {
		name string
		wrap func(http.Handler) http.Handler
		want string
	}{
		{"no header", hang(func(http.ResponseWriter) {}), "timeout awaiting response headers"},
		{"stalled body", hang(func(w http.ResponseWriter) {
			w.Header().Set("Content-Length", "100000")
			w.Write([]byte("-----BEGIN"))
			w.(http.Flusher).Flush()
		}), "the mirror stalled: fewer than 16384 bytes in 100ms"},
		{"server error", func(http.Handler) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(503) })
		}, "the mirror answered 503 Service Unavailable (tried 2 times)"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			url := debiantest.Serve(t, files, tc.wrap)
			began := time.Now()
			_, err := openTest(t, url, t.TempDir(), key, nil)
			if err == nil || !strings.Contains(err.Error(), tc.want) || !strings.Contains(err.Error(), url) {
				t.Errorf("got %v, want %q", err, tc.want)
			}
			if d := time.Since(began); d > 4*time.Second {
				t.Errorf("it took %s", d)
			}
		})
	}
	t.Run("refused", func(t *testing.T) {
		const url = "http://127.0.0.1:1"
		_, err := openTest(t, url, t.TempDir(), key, nil)
		if err == nil || !strings.Contains(err.Error(), url) || !strings.Contains(err.Error(), "refused") || !strings.Contains(err.Error(), "tried 2 times") {
			t.Errorf("got %v", err)
		}
	})
	t.Run("the next mirror helps", func(t *testing.T) {
		good := debiantest.Serve(t, files, nil)
		var warned error
		_, err := openTest(t, "", t.TempDir(), key, func(o *Options) {
			o.Mirrors = []Mirror{{Archive: "http://127.0.0.1:1"}, {Archive: good}}
			o.Warn = func(err error) { warned = err }
		})
		if err != nil || warned == nil {
			t.Errorf("got %v, warned of %v", err, warned)
		}
	})
}

// TestResume cuts the first answer for a package short and expects the second
// request to ask for the rest only.
func TestResume(t *testing.T) {
	key := debiantest.Key(t)
	a := testArchive(key)
	a.Debs[0].Ext = "none" // large enough to be cut
	files := a.Files(t)
	var cuts, ranges atomic.Int32
	url := debiantest.Serve(t, files, func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if strings.Contains(r.URL.Path, "/app_") {
				if r.Header.Get("Range") == "bytes=50000-" {
					ranges.Add(1)
				} else if cuts.Add(1) == 1 {
					w.Header().Set("Content-Length", "100000")
					w.Write(files[strings.TrimPrefix(r.URL.Path, "/")][:50000])
					panic(http.ErrAbortHandler)
				}
			}
			next.ServeHTTP(w, r)
		})
	})
	cache := t.TempDir()
	ar, err := openTest(t, url, cache, key, nil)
	if err != nil {
		t.Fatal(err)
	}
	packages, err := Resolve(ar.Index, []string{"app"}, nil, Pins{})
	if err != nil {
		t.Fatal(err)
	}
	got, err := ar.Download(context.Background(), packages)
	if err != nil {
		t.Fatal(err)
	}
	if cuts.Load() != 1 || ranges.Load() != 1 {
		t.Errorf("%d whole requests, %d for the rest", cuts.Load(), ranges.Load())
	}
	data, err := os.ReadFile(got[0])
	if err != nil || !bytes.Equal(data, files["pool/trixie/app_1.0-1_amd64.deb"]) {
		t.Errorf("the file differs (%v)", err)
	}
	// A damaged cached file is not used, but fetched again.
	if err := os.WriteFile(got[0], []byte("damaged"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := ar.Download(context.Background(), packages); err != nil {
		t.Fatal(err)
	}
	if cuts.Load() != 2 {
		t.Error("a damaged file in the cache was not fetched again")
	}
	// What was not used for long goes.
	if err := Prune(cache, time.Hour, time.Now().Add(2*time.Hour)); err != nil {
		t.Fatal(err)
	}
	if left, _ := filepath.Glob(filepath.Join(cache, "sha256", "*", "*")); len(left) != 0 {
		t.Errorf("left after pruning: %v", left)
	}
}

func TestCancelled(t *testing.T) {
	key := debiantest.Key(t)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	_, err := Open(ctx, Options{
		Releases: []string{"trixie"}, Arch: "amd64", CacheDir: t.TempDir(), Keys: openpgp.EntityList{key}, Limits: quick,
		Mirrors: []Mirror{{Archive: debiantest.Serve(t, testArchive(key).Files(t), nil)}},
	})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

// TestRealKeyring makes sure that the embedded keys are the ones meant.
func TestRealKeyring(t *testing.T) {
	keys, err := Keyring()
	if err != nil {
		t.Fatal(err)
	}
	found := map[string]bool{}
	for _, k := range keys {
		for name := range k.Identities {
			found[name] = true
		}
	}
	for _, name := range []string{
		"Debian Archive Automatic Signing Key (13/trixie) <ftpmaster@debian.org>",
		"Debian Security Archive Automatic Signing Key (13/trixie) <ftpmaster@debian.org>",
		"Debian Stable Release Key (13/trixie) <debian-release@lists.debian.org>",
	} {
		if !found[name] {
			t.Errorf("no key of %s", name)
		}
	}
}

// A suite that was there once may not be kept back, in whatever way; a security suite
// may not be missing at all, unless it is not asked for.
func TestSuiteGoesMissing(t *testing.T) {
	key := debiantest.Key(t)
	with := func(suite string, age time.Duration) map[string][]byte {
		files := testArchive(key).Files(t)
		a := testArchive(key)
		a.Suite, a.Date = suite, testNow.Add(-age)
		prefix := ""
		if strings.HasSuffix(suite, "-security") {
			prefix = "security/"
		}
		for name, data := range a.Files(t) {
			files[prefix+name] = data
		}
		return files
	}
	const security, updates = "trixie-security", "trixie-updates"
	release := func(suite string) string {
		if suite == security {
			return "security/dists/" + suite + "/InRelease"
		}
		return "dists/" + suite + "/InRelease"
	}
	changes := map[string]func(files map[string][]byte, suite string){
		"gone":  func(files map[string][]byte, suite string) { delete(files, release(suite)) },
		"empty": func(files map[string][]byte, suite string) { files[release(suite)] = nil },
		"older": func(files map[string][]byte, suite string) {
			files[release(suite)] = with(suite, 48*time.Hour)[release(suite)]
		},
		"another suite's": func(files map[string][]byte, suite string) {
			files[release(suite)] = files["dists/trixie/InRelease"]
		},
	}
	for _, suite := range []string{security, updates} {
		open := func(cache string, files map[string][]byte, wrap func(http.Handler) http.Handler) error {
			a, err := openTest(t, debiantest.Serve(t, files, wrap), cache, key, func(o *Options) { o.NoSecurity = suite != security })
			if err == nil {
				a.Close()
			}
			return err
		}
		for what, change := range changes {
			cache := t.TempDir()
			if err := open(cache, with(suite, time.Hour), nil); err != nil {
				t.Fatal(err)
			}
			files := with(suite, time.Hour)
			change(files, suite)
			err := open(cache, files, nil)
			if err == nil {
				t.Errorf("%s is %s: taken", suite, what)
				continue
			}
			if what == "gone" && !strings.Contains(err.Error(), "no "+suite+", which was there before, dated 2026-06-01") {
				t.Errorf("%s is %s: %v", suite, what, err)
			}
			var h interface{ Hint() string }
			if what == "gone" && (!errors.As(err, &h) || !strings.Contains(h.Hint(), filepath.Join(cache, "seen", suite))) {
				t.Errorf("no way out in %v", err)
			}
		}
		// A mirror that sends its readers to an older state.
		cache := t.TempDir()
		if err := open(cache, with(suite, time.Hour), nil); err != nil {
			t.Fatal(err)
		}
		files := with(suite, time.Hour)
		files["old"] = with(suite, 48*time.Hour)[release(suite)]
		err := open(cache, files, func(next http.Handler) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.URL.Path == "/"+release(suite) {
					http.Redirect(w, r, "/old", http.StatusFound)
					return
				}
				next.ServeHTTP(w, r)
			})
		})
		if err == nil || !strings.Contains(err.Error(), "older than the one of 2026-06-01") {
			t.Errorf("%s is elsewhere and older: %v", suite, err)
		}
	}
	plain := testArchive(key).Files(t)
	url, cache := debiantest.Serve(t, plain, nil), t.TempDir()
	if _, err := openTest(t, url, cache, key, nil); err != nil {
		t.Errorf("without security, as asked: %v", err)
	}
	for where, mirror := range map[string]Mirror{"missing": {Archive: url, Security: url + "/security"}, "unknown": {Archive: url}} {
		_, err := openTest(t, url, t.TempDir(), key, func(o *Options) { o.NoSecurity, o.Mirrors = false, []Mirror{mirror} })
		var h interface{ Hint() string }
		if err == nil || !strings.Contains(err.Error(), "no trixie-security, and so no security updates") || !errors.As(err, &h) || !strings.Contains(h.Hint(), "--no-security") {
			t.Errorf("a security suite that is %s: %v", where, err)
		}
	}
}

// Of several releases each is verified by itself, and their packages stay apart.
func TestReleases(t *testing.T) {
	key := debiantest.Key(t)
	files := testArchive(key).Files(t)
	next := testArchive(key)
	next.Suite, next.ValidUntil = "forky", testNow.Add(-time.Minute)
	next.Debs[0].Version = "2.0-1"
	for name, data := range next.Files(t) {
		files[name] = data
	}
	url := debiantest.Serve(t, files, nil)
	var warned []error
	both := func(expired bool) func(*Options) {
		return func(o *Options) {
			o.Releases, o.Expired = []string{"trixie", "forky"}, expired
			o.Warn = func(err error) { warned = append(warned, err) }
		}
	}
	_, err := openTest(t, url, t.TempDir(), key, both(false))
	if expired := (*ExpiredError)(nil); !errors.As(err, &expired) || !strings.Contains(err.Error(), "forky") || expired.Hint() == "" {
		t.Errorf("got %v", err)
	}
	warned = nil
	a, err := openTest(t, url, t.TempDir(), key, both(true))
	if err != nil {
		t.Fatal(err)
	}
	if len(warned) != 1 || !strings.Contains(warned[0].Error(), "expired") {
		t.Errorf("warnings: %v", warned)
	}
	for release, want := range map[string]string{"trixie": "1.0-1", "forky": "2.0-1"} {
		p := a.Index.Newest("app", release)
		if p == nil || p.Version != want || p.Suite != release {
			t.Errorf("app of %s is %+v", release, p)
		}
	}
	// The two have one libapp, byte for byte.
	if p := a.Index.Newest("libapp", "forky"); p == nil || p.Release != "forky" {
		t.Errorf("libapp of forky is %+v", p)
	}
}

// Two suites' indices can be one and the same file, for example an empty one.
func TestSameFileTwice(t *testing.T) {
	key := debiantest.Key(t)
	files := testArchive(key).Files(t)
	for _, suite := range []string{"trixie-updates", "forky", "forky-updates"} {
		empty := testArchive(key)
		empty.Suite, empty.Debs = suite, nil
		for name, data := range empty.Files(t) {
			files[name] = data
		}
	}
	url := debiantest.Serve(t, files, nil)
	for range 20 {
		a, err := openTest(t, url, t.TempDir(), key, func(o *Options) { o.Releases = []string{"trixie", "forky"} })
		if err != nil {
			t.Fatal(err)
		}
		a.Close()
	}
}
