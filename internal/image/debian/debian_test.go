package debian

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/hyve-vm/hyve/internal/image/debian/debiantest"
)

func TestCompareVersions(t *testing.T) {
	for _, tc := range []struct {
		a, op, b string
	}{
		{"1.0", "=", "1.0"}, {"1.0", "=", "0:1.0"}, {"1.0", "=", "1.00"}, {"1.0", "=", "1.0-0"}, {"1.0", "=", "1.0-"},
		{"1.0", "<", "1.0-1"}, {"1.0~rc1", "<", "1.0"}, {"1.0~~", "<", "1.0~"}, {"1.0~", "<", "1.0"}, {"1.0-1~bpo1", "<", "1.0-1"},
		{"1.9", "<", "1.10"}, {"2", "<", "1:1"}, {"1.0a", "<", "1.0b"}, {"1.0", "<", "1.0a"}, {"1.0a", "<", "1.0+"},
		{"1.0-1", "<", "1.0-1+b1"}, {"1.0-1+b1", "<", "1.0-1+deb13u1"}, {"1.0-1+deb13u1", "<", "1.0-1.1"},
		{"26.1.5+dfsg1-9+b3", "<", "26.1.5+dfsg1-9+deb13u1"}, {"1.7.24~ds1-6", "<", "1.7.24-1"},
		{"1.2.3-4-5", ">", "1.2.3-4"}, {"0.0.0000000000000000000000001", ">", "0.0.0"},
		{"99999999999999999999999999", "<", "100000000000000000000000000"},
	} {
		c, d := CompareVersions(tc.a, tc.b), CompareVersions(tc.b, tc.a)
		want := map[string]int{"<": -1, "=": 0, ">": 1}[tc.op]
		if sign(c) != want || sign(d) != -want {
			t.Errorf("%s %s %s: got %d and %d", tc.a, tc.op, tc.b, c, d)
		}
	}
}

func sign(n int) int {
	switch {
	case n < 0:
		return -1
	case n > 0:
		return 1
	}
	return 0
}

func TestControlReader(t *testing.T) {
	r := NewControlReader(strings.NewReader("\n# comment\nPackage: a\nDescription: short\n long\n .\n more\n\n\nPackage:b\nX: \n"))
	first, err := r.Next()
	if err != nil || first.Get("package") != "a" || first.Get("Description") != "short\nlong\n.\nmore" {
		t.Errorf("first: %q, %v", first, err)
	}
	second, err := r.Next()
	if err != nil || second.Get("Package") != "b" || second["x"] != "" {
		t.Errorf("second: %q, %v", second, err)
	}
	if _, err := r.Next(); err != io.EOF {
		t.Errorf("end: %v", err)
	}
	for text, want := range map[string]string{
		" x\n":                         "line 1 continues no field",
		"A: 1\nnonsense\n":             "line 2 is no field",
		"A: 1\na: 2\n":                 "line 2 repeats field a",
		"A B: 1\n":                     "line 1 is no field",
		"\n:\n":                        "line 2 is no field",
		strings.Repeat("x", maxLine+1): "longer than",
	} {
		if _, err := NewControlReader(strings.NewReader(text)).Next(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.20q: got %v, want %q", text, err, want)
		}
	}
}

func TestParseDependencies(t *testing.T) {
	got, err := ParseDependencies("libc6 (>= 2.34), debconf (>= 0.5) | debconf-2.0, python3:any (<<3.14), a(= 1:2-3),")
	want := []Dependency{
		{{"libc6", ">=", "2.34"}}, {{"debconf", ">=", "0.5"}, {Name: "debconf-2.0"}},
		{{"python3", "<<", "3.14"}}, {{"a", "=", "1:2-3"}},
	}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("got %v, %v", got, err)
	}
	for _, bad := range []string{"a b", "a (1)", "a (>= )", "a (>= 1", "a (>= 1) x", "a || b", "/x", "a (=> 1)"} {
		if d, err := ParseDependencies(bad); err == nil {
			t.Errorf("%q: got %v", bad, d)
		}
	}
}

func parseIndex(t *testing.T, text string) *Index {
	t.Helper()
	var b strings.Builder
	for para := range strings.SplitSeq(strings.TrimSpace(text), "\n\n") {
		name, _, _ := strings.Cut(strings.TrimPrefix(para, "Package: "), "\n")
		b.WriteString(para + "\nFilename: pool/" + name + ".deb\nSize: 1\nSHA256: " + strings.Repeat("0", 64) + "\n\n")
	}
	list, err := ParsePackages(strings.NewReader(b.String()))
	if err != nil {
		t.Fatal(err)
	}
	return NewIndex(list)
}

// Packages stay in the release that they are pinned to, but for what needs a newer one.
func TestPins(t *testing.T) {
	x := newIndex()
	for _, p := range []struct{ release, name, version, depends string }{
		{"base", "engine", "26", "libc (>= 2), proxy"},
		{"base", "libc", "2.41", ""},
		{"base", "proxy", "1", "libc"},
		{"base", "shell", "5", "libc, libtalloc"},
		{"base", "libtalloc", "2", ""},
		{"base", "libseccomp", "2.5", ""},
		{"next", "engine", "28", "libc (>= 2), proxy, libseccomp (>= 2.6)"},
		{"next", "libc", "2.42", ""},
		{"next", "proxy", "2", "libc"},
		{"next", "shell", "6", "libc"},
		{"next", "libseccomp", "2.6", ""},
		{"next", "impossible", "1", "engine (<< 1)"},
		{"next", "both", "1", "libseccomp (<< 2.6), engine (>= 28)"},
	} {
		depends, err := ParseDependencies(p.depends)
		if err != nil {
			t.Fatal(err)
		}
		x.add(&Package{Name: p.name, Version: p.version, Release: p.release, Depends: depends})
	}
	toNext := map[string]string{"engine": "next"}
	for _, tt := range []struct {
		wanted string
		names  map[string]string
		want   string // or of what the error speaks
	}{
		{"engine shell", nil, "engine=26 libc=2.41 libtalloc=2 proxy=1 shell=5"},
		{"engine shell", toNext, "engine=28 libc=2.41 libseccomp=2.6 libtalloc=2 proxy=1 shell=5"},
		{"libseccomp engine", toNext, "engine=28 libc=2.41 libseccomp=2.6 proxy=1"}, // chosen before it is known
		{"engine impossible", toNext, "impossible needs engine (<< 1)"},
		{"both", toNext, "libseccomp"}, // no choice satisfies both
	} {
		got, err := Resolve(x, strings.Fields(tt.wanted), nil, Pins{Release: "base", Names: tt.names})
		var said []string
		for _, p := range got {
			said = append(said, p.Name+"="+p.Version)
		}
		if err != nil {
			said = []string{err.Error()}
		}
		if text := strings.Join(said, " "); text != tt.want && (err == nil || !strings.Contains(text, tt.want)) {
			t.Errorf("%s with %v: %s, want %s", tt.wanted, tt.names, text, tt.want)
		}
	}
}

func TestResolve(t *testing.T) {
	x := parseIndex(t, `
Package: app
Version: 1
Pre-Depends: lib (>= 2)
Depends: virtual, left | right, helper, awk (>= 5)

Package: lib
Version: 1

Package: lib
Version: 2+deb13u1

Package: lib
Version: 2

Package: zprovider
Version: 1
Provides: virtual

Package: provider
Version: 1
Provides: virtual, awk (= 5.1)

Package: left
Version: 1

Package: right
Version: 1

Package: helper
Version: 1
Depends: heavy

Package: heavy
Version: 1
Depends: nowhere

Package: enemy
Version: 1
Conflicts: virtual

Package: strict
Version: 1
Depends: lib (<< 2)

Package: broken
Version: 1
Depends: strict, missing (>= 3)
`)
	names := func(packages []*Package) string {
		var s []string
		for _, p := range packages {
			s = append(s, p.Name+"="+p.Version)
		}
		return strings.Join(s, " ")
	}
	never := map[string]string{"heavy": "not wanted"}
	for _, tc := range []struct{ wanted, want, err string }{
		{"app", "app=1 helper=1 left=1 lib=2+deb13u1 provider=1", ""},
		{"app right", "app=1 helper=1 lib=2+deb13u1 provider=1 right=1", ""}, // right was wanted, so left is not needed
		{"zprovider app", "app=1 helper=1 left=1 lib=2+deb13u1 provider=1 zprovider=1", ""},
		{"strict", "lib=1 strict=1", ""},
		{"nothing", "", "the archive has no nothing"},
		{"broken", "", "broken needs missing (>= 3), which the archive does not have"},
		{"app enemy", "", "enemy conflicts with virtual"},
		{"app strict", "", "strict needs lib (<< 2), but lib 2+deb13u1 is already chosen"},
	} {
		got, err := Resolve(x, strings.Fields(tc.wanted), never, Pins{})
		if tc.err != "" {
			if err == nil || !strings.Contains(err.Error(), tc.err) {
				t.Errorf("%s: got %v, want %q", tc.wanted, err, tc.err)
			}
			continue
		}
		if err != nil || names(got) != tc.want {
			t.Errorf("%s: got %s, %v; want %s", tc.wanted, names(got), err, tc.want)
		}
	}
	if _, err := Resolve(x, []string{"helper"}, nil, Pins{}); err == nil || !strings.Contains(err.Error(), "helper, for it heavy needs nowhere") {
		t.Errorf("chain: %v", err)
	}
}

func TestHostMirrors(t *testing.T) {
	for _, tc := range []struct {
		name  string
		files map[string]string
		want  []Mirror
	}{
		{"nothing", nil, nil},
		{"one line", map[string]string{"sources.list": `# old
deb http://a.example/debian/ bookworm main contrib
deb-src http://src.example/debian bookworm main
deb [arch=amd64 signed-by=/usr/share/keyrings/docker.gpg] https://third.example/linux/debian bookworm main
deb [ arch=amd64 ] http://a.example/debian-security bookworm-security main # security
deb http://a.example/debian bookworm-updates main
deb http://b.example/debian bookworm-backports main
deb cdrom:[x]/ bookworm main
deb http://u.example/ubuntu noble main`},
			[]Mirror{{Archive: "http://a.example/debian", Security: "http://a.example/debian-security"}}},
		{"deb822", map[string]string{"sources.list.d/debian.sources": `Types: deb deb-src
URIs: http://c.example/debian https://d.example/debian
Suites: trixie trixie-updates
Components: main
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg

Enabled: no
Types: deb
URIs: http://off.example/debian
Suites: trixie
Components: main
`, "sources.list.d/x.list": "deb http://e.example/pkg stable main/other\n"},
			[]Mirror{
				{Archive: "http://c.example/debian", Security: "http://c.example/debian-security"},
				{Archive: "https://d.example/debian", Security: "https://d.example/debian-security"},
			}},
	} {
		etc := t.TempDir()
		for name, text := range tc.files {
			file := filepath.Join(etc, name)
			if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		if got := HostMirrors(etc); !reflect.DeepEqual(got, tc.want) {
			t.Errorf("%s: got %+v, want %+v", tc.name, got, tc.want)
		}
	}
}

func TestParseMirror(t *testing.T) {
	m, err := ParseMirror("http://x.example/debian/")
	if err != nil || m.Archive != "http://x.example/debian" || m.Security != "http://x.example/debian-security" {
		t.Errorf("got %+v, %v", m, err)
	}
	if m, err := ParseMirror("http://x.example:8080/"); err != nil || m.Security != "http://x.example:8080/debian-security" {
		t.Errorf("got %+v, %v", m, err)
	}
	for _, bad := range []string{"", "x.example/debian", "ftp://x.example/debian", "http://", "http://x/?q"} {
		if _, err := ParseMirror(bad); err == nil {
			t.Errorf("%q was taken", bad)
		}
	}
}

func TestReadDeb(t *testing.T) {
	for _, ext := range []string{".xz", ".zst", ".gz", "none"} {
		deb := debiantest.Deb{Name: "x", Version: "1", Arch: "all", Ext: ext,
			Files: []tar.Header{
				{Name: "./", Typeflag: tar.TypeDir, Mode: 0o755},
				{Name: "./bin/su", Mode: 0o4755, PAXRecords: map[string]string{"SCHILY.xattr.security.capability": "\x01cap"}},
				{Name: "./bin/l", Typeflag: tar.TypeSymlink, Linkname: "../../etc/x"},
				{Name: "./bin/h", Typeflag: tar.TypeLink, Linkname: "./bin/su"},
			},
			Content: map[string]string{"./bin/su": "program"}}
		var got []Entry
		err := readDeb(bytes.NewReader(deb.Bytes(t)), func(e Entry, r io.Reader) error {
			if e.Type == tar.TypeReg {
				if data, err := io.ReadAll(r); err != nil || string(data) != "program" {
					t.Errorf("%s: %q, %v", e.Name, data, err)
				}
			}
			got = append(got, e)
			return nil
		})
		want := []Entry{
			{Name: ".", Type: tar.TypeDir, Mode: 0o755},
			{Name: "bin/su", Type: tar.TypeReg, Mode: 0o4755, Size: 7, Xattrs: map[string]string{"security.capability": "\x01cap"}},
			{Name: "bin/l", Type: tar.TypeSymlink, Link: "../../etc/x"},
			{Name: "bin/h", Type: tar.TypeLink, Link: "bin/su"},
		}
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%s: got %+v, %v", ext, got, err)
		}
	}
}

func TestHostileDeb(t *testing.T) {
	one := func(h tar.Header) []byte {
		return debiantest.Deb{Name: "x", Version: "1", Ext: "none", Files: []tar.Header{h}}.Bytes(t)
	}
	good := one(tar.Header{Name: "a"})
	for _, tc := range []struct {
		name string
		deb  []byte
		want string
	}{
		{"parent", one(tar.Header{Name: "../x"}), "leaves the package"},
		{"hidden parent", one(tar.Header{Name: "a/../../x"}), "leaves the package"},
		{"absolute", one(tar.Header{Name: "/etc/passwd"}), "leaves the package"},
		{"hard link out", one(tar.Header{Name: "a", Typeflag: tar.TypeLink, Linkname: "../../etc/shadow"}), "leaves the package"},
		{"empty link", one(tar.Header{Name: "a", Typeflag: tar.TypeSymlink}), "bad link target"},
		{"long name", one(tar.Header{Name: strings.Repeat("x/", maxName) + "x"}), "bad path"},
		{"no ar", []byte("PK\x03\x04"), "no Debian package"},
		{"cut in a header", good[:70], "EOF"},
		{"cut in data", good[:len(good)-700], "EOF"},
		{"no data", bytes.Replace(good, []byte("data.tar"), []byte("dota.tar"), 1), "no data.tar"},
		{"bad size", bytes.Replace(good, []byte("4         `"), []byte("-4        `"), 1), "size"},
	} {
		err := readDeb(bytes.NewReader(tc.deb), func(Entry, io.Reader) error { return nil })
		if err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: got %v, want %q", tc.name, err, tc.want)
		}
	}
	var huge bytes.Buffer
	if err := tar.NewWriter(&huge).WriteHeader(&tar.Header{Name: "a", Size: maxUnpacked + 1}); err != nil {
		t.Fatal(err)
	}
	if err := readTar(&huge, func(Entry, io.Reader) error { return nil }); err == nil || !strings.Contains(err.Error(), "unpacks to more than 8589934592 bytes") {
		t.Errorf("huge: %v", err)
	}
	// A dictionary that would take 1.5 GiB is refused before it is allocated.
	bomb := debiantest.XZ(t, []byte("x"))
	bomb[12+4] = 0x25
	if _, err := decompress(".xz", bytes.NewReader(bomb)); err == nil || !strings.Contains(err.Error(), "dictionary has 1610612736 bytes") {
		t.Errorf("dictionary: %v", err)
	}
}

func FuzzControl(f *testing.F) {
	f.Add([]byte("Package: a\nVersion: 1\nDescription: x\n y\n\nPackage: b\n"))
	f.Add([]byte(" \n:\n#\nA:\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		r := NewControlReader(bytes.NewReader(data))
		for {
			p, err := r.Next()
			if err != nil {
				return
			}
			for name := range p {
				if name == "" || name != strings.ToLower(name) {
					t.Errorf("field %q", name)
				}
			}
		}
	})
}

func FuzzCompareVersions(f *testing.F) {
	f.Add("1:2.3-4", "1:2.3~rc-4")
	f.Add("0a", "00")
	f.Fuzz(func(t *testing.T, a, b string) {
		if sign(CompareVersions(a, b)) != -sign(CompareVersions(b, a)) {
			t.Errorf("%q and %q are not ordered", a, b)
		}
		if CompareVersions(a, a) != 0 {
			t.Errorf("%q differs from itself", a)
		}
	})
}

func FuzzReadDeb(f *testing.F) {
	for _, ext := range []string{".xz", ".zst", ".gz", "none"} {
		f.Add(debiantest.Deb{Name: "x", Version: "1", Ext: ext, Files: []tar.Header{{Name: "a/b"}}, Content: map[string]string{"a/b": "c"}}.Bytes(f))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		_ = readDeb(bytes.NewReader(data), func(e Entry, r io.Reader) error {
			if e.Name != "." && !localPath(e.Name) {
				t.Errorf("path %q", e.Name)
			}
			_, err := io.CopyN(io.Discard, r, 1<<20)
			if errors.Is(err, io.EOF) {
				err = nil
			}
			return err
		})
	})
}

func FuzzRelease(f *testing.F) {
	f.Add([]byte("Codename: trixie\nDate: Sat, 21 Nov 2026 09:15:44 UTC\nSHA256:\n " + strings.Repeat("0", 64) + " 1 main/x\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		r, err := parseReleaseText(data)
		if err != nil {
			return
		}
		for name, d := range r.Files {
			if !localPath(name) || d.Size < 0 || len(d.SHA256) != 64 {
				t.Errorf("%q: %+v", name, d)
			}
		}
	})
}

func FuzzPackages(f *testing.F) {
	f.Add([]byte("Package: a\nVersion: 1\nFilename: pool/a.deb\nSize: 1\nSHA256: " + strings.Repeat("0", 64) + "\nDepends: b (>= 1) | c, d:any\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		list, err := ParsePackages(bytes.NewReader(data))
		if err != nil {
			return
		}
		for _, p := range list {
			if !localPath(p.Filename) || !validName(p.Name) {
				t.Errorf("%+v", p)
			}
		}
		_, _ = Resolve(NewIndex(list), []string{"a"}, nil, Pins{})
	})
}
