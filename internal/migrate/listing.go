package migrate

import (
	"archive/tar"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
)

// maxEntries bounds how many files a volume may have: the sum of each is kept.
const maxEntries = 8 << 20

// A listing is what an archive of a volume holds, whatever the order.
type listing struct {
	Sum     string // SHA-256 over those of the entries, sorted, in hex
	Entries int
	Bytes   int64 // of regular files
}

// empty says that there is nothing but the volume's own directory.
func (l listing) empty() bool { return l.Entries <= 1 }

// list reads an archive to its end and sums up what it holds: of each entry its name, type,
// mode, owner, time, link, device, extended attributes and content.
func list(archive io.Reader) (listing, error) {
	var l listing
	var sums []string
	for entries := tar.NewReader(archive); ; {
		h, err := entries.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return l, fmt.Errorf("reading an archive: %w", err)
		}
		if len(sums) == maxEntries {
			return l, fmt.Errorf("reading an archive: it has more than %d entries", maxEntries)
		}
		content := sha256.New()
		n, err := io.Copy(content, entries)
		if err != nil {
			return l, fmt.Errorf("reading an archive: %w", err)
		}
		l.Bytes += n
		sum := sha256.New()
		kind := h.Typeflag
		if kind == '\x00' { // as archives of old had it
			kind = tar.TypeReg
		}
		fmt.Fprintf(sum, "%c %q %o %d %d %d %q %d %d %d %x\n", kind, strings.TrimSuffix(h.Name, "/"), h.Mode&0o7777, h.Uid, h.Gid,
			h.ModTime.Unix(), h.Linkname, h.Devmajor, h.Devminor, n, content.Sum(nil))
		for _, key := range slices.Sorted(maps.Keys(h.PAXRecords)) {
			if strings.HasPrefix(key, "SCHILY.xattr.") {
				fmt.Fprintf(sum, "%q %q\n", key, h.PAXRecords[key])
			}
		}
		sums = append(sums, string(sum.Sum(nil)))
	}
	// The end of an archive is padded; whoever writes it must get rid of that.
	if _, err := io.Copy(io.Discard, archive); err != nil {
		return l, fmt.Errorf("reading an archive: %w", err)
	}
	slices.Sort(sums)
	all := sha256.New()
	for _, sum := range sums {
		io.WriteString(all, sum)
	}
	l.Sum, l.Entries = hex.EncodeToString(all.Sum(nil)), len(sums)
	return l, nil
}

// A listed is an archive that is listed while somebody else reads it.
type listed struct {
	from   io.Reader
	to     *io.PipeWriter
	result chan listed1
}

type listed1 struct {
	listing
	err error
}

// alsoList returns the archive as it is, which is listed as it is read.
func alsoList(archive io.Reader) *listed {
	from, to := io.Pipe()
	l := &listed{io.TeeReader(archive, to), to, make(chan listed1, 1)}
	go func() {
		result, err := list(from)
		io.Copy(io.Discard, from) // never let the reader wait
		l.result <- listed1{result, err}
	}()
	return l
}

func (l *listed) Read(b []byte) (int, error) { return l.from.Read(b) }

// listing is what the archive held, once it has been read to its end.
func (l *listed) listing() (listing, error) {
	l.to.Close()
	result := <-l.result
	return result.listing, result.err
}
