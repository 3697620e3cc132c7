package migrate

import (
	"archive/tar"
	"bytes"
	"io"
	"slices"
	"strings"
	"testing"
	"time"
)

// pack makes an archive; a regular file's content is its Linkname.
func pack(t testing.TB, headers ...tar.Header) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, h := range headers {
		content := ""
		if h.Typeflag == tar.TypeReg {
			content, h.Linkname = h.Linkname, ""
			h.Size = int64(len(content))
		}
		h.Format = tar.FormatPAX
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		io.WriteString(w, content)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func entries() []tar.Header {
	when := time.Unix(1e9, 0)
	return []tar.Header{
		{Typeflag: tar.TypeDir, Name: "volume/", Mode: 0o700, Uid: 999, Gid: 998, ModTime: when},
		{Typeflag: tar.TypeReg, Name: "volume/a", Mode: 0o4755, Linkname: "text", ModTime: when},
		{Typeflag: tar.TypeLink, Name: "volume/b", Linkname: "volume/a", ModTime: when},
		{Typeflag: tar.TypeSymlink, Name: "volume/\xff", Linkname: "../x", ModTime: when},
		{Typeflag: tar.TypeChar, Name: "volume/null", Devmajor: 1, Devminor: 3, ModTime: when},
		{Typeflag: tar.TypeReg, Name: "volume/cap", ModTime: when, PAXRecords: map[string]string{"SCHILY.xattr.security.capability": "\x01\x00\x00\x02"}},
	}
}

// Whatever changes, the sum does; but not for the order.
func TestListing(t *testing.T) {
	want, err := list(bytes.NewReader(pack(t, entries()...)))
	if err != nil || want.Entries != 6 || want.Bytes != 4 || want.empty() {
		t.Fatalf("%+v, %v", want, err)
	}
	other := entries()
	slices.Reverse(other)
	if got, err := list(bytes.NewReader(pack(t, other...))); err != nil || got != want {
		t.Errorf("in another order it is %+v, %v", got, err)
	}
	for what, change := range map[string]func(e []tar.Header){
		"owner":    func(e []tar.Header) { e[0].Uid++ },
		"group":    func(e []tar.Header) { e[0].Gid++ },
		"mode":     func(e []tar.Header) { e[1].Mode = 0o755 },
		"content":  func(e []tar.Header) { e[1].Linkname = "Text" },
		"time":     func(e []tar.Header) { e[2].ModTime = time.Unix(1e9+1, 0) },
		"link":     func(e []tar.Header) { e[2].Linkname = "volume/c" },
		"name":     func(e []tar.Header) { e[3].Name = "volume/\xfe" },
		"target":   func(e []tar.Header) { e[3].Linkname = "../y" },
		"device":   func(e []tar.Header) { e[4].Devminor++ },
		"type":     func(e []tar.Header) { e[4].Typeflag = tar.TypeBlock },
		"xattr":    func(e []tar.Header) { e[5].PAXRecords = map[string]string{"SCHILY.xattr.security.capability": "\x01"} },
		"no xattr": func(e []tar.Header) { e[5].PAXRecords = nil },
	} {
		other := entries()
		change(other)
		if got, err := list(bytes.NewReader(pack(t, other...))); err != nil || got.Sum == want.Sum {
			t.Errorf("%s: the sum is the same, %v", what, err)
		}
	}
	if got, err := list(bytes.NewReader(pack(t, entries()[0]))); err != nil || !got.empty() {
		t.Errorf("an empty volume: %+v, %v", got, err)
	}
}

func TestListingOfAHalf(t *testing.T) {
	whole := pack(t, entries()...)
	if _, err := list(bytes.NewReader(whole[:len(whole)/2+100])); err == nil {
		t.Error("half an archive was taken")
	}
	// The reader gets all of it all the same.
	l := alsoList(bytes.NewReader(whole[:700]))
	if got, err := io.ReadAll(l); err != nil || len(got) != 700 {
		t.Errorf("%d bytes, %v", len(got), err)
	}
	if _, err := l.listing(); err == nil {
		t.Error("half an archive was listed")
	}
	l = alsoList(bytes.NewReader(whole))
	io.Copy(io.Discard, l)
	if got, err := l.listing(); err != nil || got.Entries != 6 {
		t.Errorf("%+v, %v", got, err)
	}
}

func FuzzList(f *testing.F) {
	f.Add(pack(f, entries()...))
	f.Fuzz(func(t *testing.T, archive []byte) {
		if l, err := list(bytes.NewReader(archive)); err == nil && (len(l.Sum) != 64 || l.Bytes < 0) {
			t.Errorf("%+v", l)
		}
	})
}

func TestReadManifest(t *testing.T) {
	id := "sha256:" + strings.Repeat("ab", 32)
	for config, want := range map[string]string{
		"blobs/sha256/" + id[7:]: id,
		id[7:] + ".json":         id,
		"../../etc/passwd":       "",
		"":                       "",
	} {
		ids, err := readManifest(bytes.NewReader(pack(t, tar.Header{Typeflag: tar.TypeReg, Name: "manifest.json", Linkname: `[{"Config":"` + config + `"}]`})))
		if err != nil || strings.Join(ids, " ") != want {
			t.Errorf("%q: %q, %v, want %q", config, ids, err, want)
		}
	}
	for _, manifest := range []string{"", "{", `[{"Config": 1}]`} {
		if _, err := readManifest(bytes.NewReader(pack(t, tar.Header{Typeflag: tar.TypeReg, Name: "manifest.json", Linkname: manifest}))); err == nil {
			t.Errorf("%q was taken", manifest)
		}
	}
	if _, err := readManifest(bytes.NewReader(pack(t, entries()...))); err == nil {
		t.Error("an archive without a manifest was taken")
	}
}

func FuzzReadManifest(f *testing.F) {
	f.Add(pack(f, tar.Header{Typeflag: tar.TypeReg, Name: "manifest.json", Linkname: `[{"Config":"blobs/sha256/00"}]`}))
	f.Fuzz(func(t *testing.T, archive []byte) {
		ids, _ := readManifest(bytes.NewReader(archive))
		for _, id := range ids {
			if !idPattern.MatchString(id) {
				t.Errorf("ID %q", id)
			}
		}
	})
}
