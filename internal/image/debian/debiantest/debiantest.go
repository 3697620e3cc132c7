// Package debiantest makes small, signed Debian archives for tests.
package debiantest

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"sort"
	"strings"
	"testing"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp"
	"github.com/ProtonMail/go-crypto/openpgp/clearsign"
	"github.com/ProtonMail/go-crypto/openpgp/packet"
	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"
)

// A Deb is a package to be made.
type Deb struct {
	Name    string
	Version string
	Arch    string // "" is the archive's
	Fields  map[string]string
	Files   []tar.Header      // Typeflag 0 is a regular file
	Content map[string]string // of regular files, by name
	Ext     string            // compression: ".xz" (if empty), ".zst", ".gz", "none"
}

// An Archive is one suite.
type Archive struct {
	Suite      string // code name
	Arch       string
	Date       time.Time
	ValidUntil time.Time // zero: none
	Key        *openpgp.Entity
	Debs       []Deb
}

// Key makes a signing key.
func Key(t testing.TB) *openpgp.Entity {
	t.Helper()
	e, err := openpgp.NewEntity("Test archive", "", "test@example.invalid", &packet.Config{
		Algorithm: packet.PubKeyAlgoEdDSA,
		Time:      func() time.Time { return time.Date(2020, 1, 1, 0, 0, 0, 0, time.UTC) },
	})
	if err != nil {
		t.Fatal(err)
	}
	return e
}

// Files returns the archive's files by their paths.
func (a Archive) Files(t testing.TB) map[string][]byte {
	t.Helper()
	files := map[string][]byte{}
	var index bytes.Buffer
	for _, d := range a.Debs {
		if d.Arch == "" {
			d.Arch = a.Arch
		}
		name := fmt.Sprintf("pool/%s/%s_%s_%s.deb", a.Suite, d.Name, d.Version, d.Arch)
		deb := d.Bytes(t)
		files[name] = deb
		index.WriteString(d.control())
		fmt.Fprintf(&index, "Filename: %s\nSize: %d\nSHA256: %x\n\n", name, len(deb), sha256.Sum256(deb))
	}
	packed := compress(t, ".xz", index.Bytes())
	sum := sha256.Sum256(packed)
	dir := "dists/" + a.Suite + "/"
	list := "main/binary-" + a.Arch + "/Packages.xz"
	files[dir+list] = packed
	files[dir+fmt.Sprintf("main/binary-%s/by-hash/SHA256/%x", a.Arch, sum)] = packed
	var text strings.Builder
	fmt.Fprintf(&text, "Origin: Debian\nCodename: %s\nVersion: 13.0\nDate: %s\n", a.Suite, a.Date.UTC().Format("Mon, 02 Jan 2006 15:04:05 UTC"))
	if !a.ValidUntil.IsZero() {
		fmt.Fprintf(&text, "Valid-Until: %s\n", a.ValidUntil.UTC().Format("Mon, 02 Jan 2006 15:04:05 UTC"))
	}
	fmt.Fprintf(&text, "Acquire-By-Hash: yes\nSHA256:\n %x %d %s\n", sum, len(packed), list)
	files[dir+"InRelease"] = Sign(t, a.Key, text.String())
	return files
}

// signed is when keys sign.
var signed = time.Date(2021, 1, 1, 0, 0, 0, 0, time.UTC)

// Sign clear-signs text.
func Sign(t testing.TB, key *openpgp.Entity, text string) []byte {
	t.Helper()
	var out bytes.Buffer
	w, err := clearsign.Encode(&out, key.PrivateKey, &packet.Config{Time: func() time.Time { return signed }})
	if err == nil {
		_, err = io.WriteString(w, text)
	}
	if err == nil {
		err = w.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
	return append(out.Bytes(), '\n')
}

func (d Deb) control() string {
	var b strings.Builder
	fmt.Fprintf(&b, "Package: %s\nVersion: %s\nArchitecture: %s\n", d.Name, d.Version, d.Arch)
	var keys []string
	for k := range d.Fields {
		keys = append(keys, k)
	}
	sort.Strings(keys)
	for _, k := range keys {
		fmt.Fprintf(&b, "%s: %s\n", k, d.Fields[k])
	}
	return b.String()
}

// Bytes returns the .deb file.
func (d Deb) Bytes(t testing.TB) []byte {
	t.Helper()
	ext := d.Ext
	switch ext {
	case "":
		ext = ".xz"
	case "none":
		ext = ""
	}
	control := []tar.Header{{Name: "./control", Mode: 0o644}}
	var out bytes.Buffer
	out.WriteString("!<arch>\n")
	member(&out, "debian-binary", []byte("2.0\n"))
	member(&out, "control.tar"+ext, compress(t, ext, tarball(t, control, map[string]string{"./control": d.control()})))
	member(&out, "data.tar"+ext, compress(t, ext, tarball(t, d.Files, d.Content)))
	return out.Bytes()
}

func member(out *bytes.Buffer, name string, data []byte) {
	fmt.Fprintf(out, "%-16s%-12d%-6d%-6d%-8s%-10d`\n", name, 0, 0, 0, "100644", len(data))
	out.Write(data)
	if len(data)%2 == 1 {
		out.WriteByte('\n')
	}
}

func tarball(t testing.TB, files []tar.Header, content map[string]string) []byte {
	t.Helper()
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	for _, h := range files {
		data := content[h.Name]
		if h.Typeflag == 0 {
			h.Typeflag, h.Size = tar.TypeReg, int64(len(data))
		}
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, data); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func compress(t testing.TB, ext string, data []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	var w io.WriteCloser
	var err error
	switch ext {
	case "":
		return data
	case ".xz":
		w, err = xz.WriterConfig{DictCap: 1 << 20}.NewWriter(&out)
	case ".zst":
		w, err = zstd.NewWriter(&out)
	case ".gz":
		w = gzip.NewWriter(&out)
	default:
		err = fmt.Errorf("no compression %q", ext)
	}
	if err == nil {
		_, err = w.Write(data)
	}
	if err == nil {
		err = w.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// XZ compresses data.
func XZ(t testing.TB, data []byte) []byte { return compress(t, ".xz", data) }

// Serve serves files, by paths without their leading slash, until the test
// ends. Requests go through wrap, if it is not nil.
func Serve(t testing.TB, files map[string][]byte, wrap func(http.Handler) http.Handler) string {
	t.Helper()
	var h http.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		data, ok := files[strings.TrimPrefix(r.URL.Path, "/")]
		if !ok {
			http.NotFound(w, r)
			return
		}
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(data))
	})
	if wrap != nil {
		h = wrap(h)
	}
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	return s.URL
}
