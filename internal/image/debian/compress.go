package debian

import (
	"bufio"
	"compress/gzip"
	"fmt"
	"io"

	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"
)

// maxDict bounds the memory that one compressed member may ask for, in bytes.
// Debian's packages use up to 64 MiB (xz -9).
const maxDict = 128 << 20

// decompress returns what r holds, by the extension of its name: ".xz", ".zst",
// ".gz", or "" for no compression.
func decompress(ext string, r io.Reader) (io.Reader, error) {
	switch ext {
	case "":
		return r, nil
	case ".gz":
		return gzip.NewReader(bufio.NewReaderSize(r, 64<<10))
	case ".zst":
		d, err := zstd.NewReader(r, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(maxDict))
		if err != nil {
			return nil, err
		}
		return d.IOReadCloser(), nil
	case ".xz":
		return newXZ(r)
	}
	return nil, fmt.Errorf("unknown compression %q", ext)
}

// newXZ returns an xz reader after a look at the first block's header: the
// decoder allocates the dictionary that a file asks for, whatever its size.
func newXZ(r io.Reader) (io.Reader, error) {
	b := bufio.NewReaderSize(r, 64<<10)
	head, err := b.Peek(12 + 1024)
	if err != nil && err != io.EOF {
		return nil, err
	}
	if size := xzDictionary(head); size > maxDict {
		return nil, fmt.Errorf("its xz dictionary has %d bytes, at most %d", size, maxDict)
	}
	return xz.NewReader(b)
}

// xzDictionary returns the LZMA2 dictionary's size that the first block of an
// xz stream asks for, or 0 if there is none (xz file format 1.2, 3.1 and
// 5.3.1).
func xzDictionary(head []byte) int64 {
	const streamHeader = 12
	if len(head) < streamHeader+2 || head[streamHeader] == 0 {
		return 0
	}
	block := head[streamHeader:]
	block = block[:min(len(block), (int(block[0])+1)*4)]
	flags, at := block[1], 2
	for _, present := range []bool{flags&0x40 != 0, flags&0x80 != 0} { // sizes, as multibyte integers
		for present && at < len(block) {
			at++
			present = block[at-1]&0x80 != 0
		}
	}
	var largest int64
	for n := 0; n <= int(flags&3) && at+1 < len(block); n++ {
		id, props := block[at], int(block[at+1])
		if id == 0x21 && props == 1 && at+2 < len(block) {
			bits := int64(block[at+2] & 0x3f)
			if bits > 40 {
				return 1 << 40
			}
			largest = max(largest, (2|bits&1)<<(bits/2+11))
		}
		at += 2 + props
	}
	return largest
}
