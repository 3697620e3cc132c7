package debian

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strconv"
	"strings"
)

// Bounds of one package, far beyond any real one; a package beyond them is
// refused.
const (
	maxEntries  = 500_000
	maxUnpacked = 8 << 30 // bytes
	maxName     = 4096    // bytes of a path or link target
)

// An Entry is one file of a package. Name is relative and clean ("usr/bin/sudo",
// "." for the root itself).
type Entry struct {
	Name     string
	Type     byte // a tar.Type constant: TypeReg, TypeDir, TypeSymlink, TypeLink, TypeChar, TypeBlock, TypeFifo
	Mode     int64
	UID, GID int
	Size     int64  // of a regular file
	Link     string // a symlink's target as it is; a hard link's target, relative and clean
	Major    int64
	Minor    int64
	Xattrs   map[string]string
}

// ReadDeb reads the .deb file (deb(5)) and calls visit for each of its files in
// their order, with the content of regular ones. It refuses paths that leave
// the root and packages beyond this package's bounds. Where visit returns fs.SkipAll it
// reads no further.
func ReadDeb(file string, visit func(e Entry, content io.Reader) error) error {
	f, err := os.Open(file)
	if err != nil {
		return fmt.Errorf("reading a package: %w", err)
	}
	defer f.Close()
	return readDeb(f, visit)
}

func readDeb(r io.Reader, visit func(e Entry, content io.Reader) error) error {
	a, err := newArReader(r)
	if err != nil {
		return err
	}
	name, body, err := a.next()
	if err != nil {
		return err
	}
	if name != "debian-binary" {
		return fmt.Errorf("its first member is %q, not debian-binary", name)
	}
	version, err := io.ReadAll(io.LimitReader(body, 64))
	if err != nil {
		return err
	}
	if !bytes.HasPrefix(version, []byte("2.")) {
		return fmt.Errorf("its format is %q, not 2.0", strings.TrimSpace(string(version)))
	}
	for {
		name, body, err := a.next()
		if errors.Is(err, io.EOF) {
			return errors.New("it has no data.tar")
		}
		if err != nil {
			return err
		}
		ext, ok := strings.CutPrefix(name, "data.tar")
		if !ok {
			continue // control.tar, and members that deb(5) says to ignore
		}
		t, err := decompress(ext, body)
		if err != nil {
			return fmt.Errorf("decompressing %s: %w", name, err)
		}
		if c, ok := t.(io.Closer); ok {
			defer c.Close()
		}
		if err := readTar(t, visit); err != nil {
			return fmt.Errorf("reading %s: %w", name, err)
		}
		return nil
	}
}

// readTar visits the entries of a tar archive within the bounds.
func readTar(r io.Reader, visit func(e Entry, content io.Reader) error) error {
	t := tar.NewReader(r)
	var total int64
	for n := 0; ; n++ {
		h, err := t.Next()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		if n == maxEntries {
			return fmt.Errorf("it has more than %d entries", maxEntries)
		}
		e, err := entryOf(h)
		if err != nil {
			return err
		}
		if e.Type == tar.TypeReg {
			if total += h.Size; h.Size < 0 || total > maxUnpacked {
				return fmt.Errorf("it unpacks to more than %d bytes", int64(maxUnpacked))
			}
		}
		if err := visit(e, t); err == fs.SkipAll {
			return nil
		} else if err != nil {
			return err
		}
	}
}

func entryOf(h *tar.Header) (Entry, error) {
	name, err := inside(h.Name)
	if err != nil {
		return Entry{}, err
	}
	e := Entry{
		Name: name, Type: h.Typeflag, Mode: h.Mode & 0o7777, UID: h.Uid, GID: h.Gid,
		Link: h.Linkname, Major: h.Devmajor, Minor: h.Devminor,
	}
	if e.UID < 0 || e.GID < 0 {
		return Entry{}, fmt.Errorf("%s: owner %d:%d", name, e.UID, e.GID)
	}
	switch h.Typeflag {
	case tar.TypeReg:
		e.Size = h.Size
	case tar.TypeDir, tar.TypeChar, tar.TypeBlock, tar.TypeFifo:
	case tar.TypeSymlink:
		if e.Link == "" || len(e.Link) > maxName || strings.ContainsRune(e.Link, 0) {
			return Entry{}, fmt.Errorf("%s: bad link target", name)
		}
	case tar.TypeLink:
		if e.Link, err = inside(h.Linkname); err != nil {
			return Entry{}, fmt.Errorf("%s: %w", name, err)
		}
	default:
		return Entry{}, fmt.Errorf("%s: entry of unknown type %q", name, h.Typeflag)
	}
	for k, v := range h.PAXRecords {
		if attr, ok := strings.CutPrefix(k, "SCHILY.xattr."); ok {
			if e.Xattrs == nil {
				e.Xattrs = map[string]string{}
			}
			e.Xattrs[attr] = v
		}
	}
	return e, nil
}

// inside returns the clean relative form of a path in an archive, or an error
// if it leaves the archive's root.
func inside(name string) (string, error) {
	if len(name) > maxName || strings.ContainsRune(name, 0) {
		return "", errors.New("it has a bad path")
	}
	clean := path.Clean(strings.TrimSuffix(name, "/"))
	if name == "" || clean == ".." || strings.HasPrefix(clean, "../") || strings.HasPrefix(clean, "/") {
		return "", fmt.Errorf("path %q leaves the package", name)
	}
	for part := range strings.SplitSeq(name, "/") {
		if part == ".." {
			return "", fmt.Errorf("path %q leaves the package", name)
		}
	}
	return clean, nil
}

// An arReader reads the members of a common ar archive.
type arReader struct {
	r    io.Reader
	body *io.LimitedReader
	pad  int64
}

func newArReader(r io.Reader) (*arReader, error) {
	magic := make([]byte, 8)
	if _, err := io.ReadFull(r, magic); err != nil || string(magic) != "!<arch>\n" {
		return nil, errors.New("it is no Debian package")
	}
	return &arReader{r: r}, nil
}

// next returns the next member's name and content, or io.EOF.
func (a *arReader) next() (string, io.Reader, error) {
	if a.body != nil {
		if _, err := io.Copy(io.Discard, a.body); err != nil {
			return "", nil, err
		}
		if a.body.N > 0 {
			return "", nil, io.ErrUnexpectedEOF
		}
		if _, err := io.CopyN(io.Discard, a.r, a.pad); err != nil && err != io.EOF {
			return "", nil, err
		}
	}
	head := make([]byte, 60)
	if _, err := io.ReadFull(a.r, head); err != nil {
		return "", nil, err // io.EOF between members, else io.ErrUnexpectedEOF
	}
	if string(head[58:]) != "`\n" {
		return "", nil, errors.New("a member's header is damaged")
	}
	size, err := strconv.ParseInt(strings.TrimSpace(string(head[48:58])), 10, 64)
	if err != nil || size < 0 {
		return "", nil, fmt.Errorf("a member has size %q", head[48:58])
	}
	name := strings.TrimSuffix(strings.TrimRight(string(head[:16]), " "), "/")
	a.body, a.pad = &io.LimitedReader{R: a.r, N: size}, size&1
	return name, a.body, nil
}
