// Package sparse is for large files of which most is holes: it finds what is not, leaves
// out zeros where it writes, and sums up contents without reading what is not there.
package sparse

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"runtime"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

// Extents calls f with the bounds of each part of a file that is not a hole, as far as
// it is between start and end. It may be called for one file from many goroutines.
func Extents(file *os.File, start, end int64, f func(start, end int64) error) error {
	for start < end {
		data, err := unix.Seek(int(file.Fd()), start, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) || err == nil && data >= end {
			return nil // a hole to the end
		}
		if err != nil {
			return fmt.Errorf("looking for the holes of %s: %w", file.Name(), err)
		}
		if start, err = unix.Seek(int(file.Fd()), data, unix.SEEK_HOLE); err != nil {
			return fmt.Errorf("looking for the holes of %s: %w", file.Name(), err)
		}
		if err := f(data, min(start, end)); err != nil {
			return err
		}
	}
	return nil
}

// HasData tells whether not all between start and end is holes.
func HasData(file *os.File, start, end int64) (has bool, err error) {
	err = Extents(file, start, end, func(int64, int64) error { has = true; return nil })
	return has, err
}

// Each calls f for one piece of a file of that size after another, side by side on all
// processors. The buffers belong to f until it returns.
func Each(size int64, piece int, f func(buf []byte, offset int64) error) error {
	workers := runtime.NumCPU()
	var group errgroup.Group
	for w := range workers {
		group.Go(func() error {
			buf := make([]byte, piece)
			for at := int64(w) * int64(piece); at < size; at += int64(workers) * int64(piece) {
				if err := f(buf[:min(int64(piece), size-at)], at); err != nil {
					return err
				}
			}
			return nil
		})
	}
	return group.Wait()
}

// piece is what checksums are made of, in bytes.
const piece = 256 << 10

// block is the smallest part of a file that is kept or left out, in bytes.
const block = 4 << 10

var (
	castagnoli = crc32.MakeTable(crc32.Castagnoli)
	zeros      [piece]byte
	sumOfZeros = crc32.Checksum(zeros[:], castagnoli)
)

// sums are the checksums of a file's pieces.
type sums []byte

func newSums(size int64) sums {
	s := make(sums, 4*((size+piece-1)/piece))
	for at := range s[:size/piece*4] {
		if at%4 == 0 {
			s.set(int64(at/4*piece), sumOfZeros)
		}
	}
	return s
}

func (s sums) set(offset int64, sum uint32) {
	binary.LittleEndian.PutUint32(s[offset/piece*4:], sum)
}

func (s sums) sum() uint32 { return crc32.Checksum(s, castagnoli) }

// Sum returns a file's size and a checksum of its content, CRC-32C of those of its
// pieces. It does not matter which zeros are holes. It finds writes that a disk has
// lost. It is no protection against people: whoever can write the file can write the sum.
func Sum(path string) (size int64, sum uint32, err error) {
	file, err := os.Open(path)
	if err != nil {
		return 0, 0, err
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return 0, 0, err
	}
	size = info.Size()
	sums := newSums(size)
	err = Each(size, piece, func(buf []byte, offset int64) error {
		has, err := HasData(file, offset, offset+int64(len(buf)))
		if err != nil || !has && len(buf) == piece { // which is known
			return err
		}
		if _, err := file.ReadAt(buf, offset); err != nil {
			return err
		}
		sums.set(offset, crc32.Checksum(buf, castagnoli))
		return nil
	})
	return size, sums.sum(), err
}

// A Writer makes a sparse file, and sums it up as it goes.
type Writer struct {
	file *os.File
	size int64
	sums sums
}

// Create makes a file of that size, which is a multiple of 256 KiB.
func Create(path string, size int64) (*Writer, error) {
	if size%piece != 0 {
		return nil, fmt.Errorf("making a sparse file of %d bytes: not a multiple of %d", size, piece)
	}
	file, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	if err := file.Truncate(size); err != nil {
		file.Close()
		return nil, err
	}
	return &Writer{file, size, newSums(size)}, nil
}

// Size is what the file is to have, in bytes.
func (w *Writer) Size() int64 { return w.size }

// WriteAt writes a part of the file of which nothing was written before; zeros become
// holes. Begin and end are multiples of 256 KiB. Different parts may be written from many
// goroutines.
func (w *Writer) WriteAt(data []byte, offset int64) error {
	for ; len(data) > 0; data, offset = data[piece:], offset+piece {
		if bytes.Equal(data[:piece], zeros[:]) {
			continue
		}
		w.sums.set(offset, crc32.Checksum(data[:piece], castagnoli))
		if err := w.writeBlocks(data[:piece], offset); err != nil {
			return err
		}
	}
	return nil
}

// writeBlocks writes the runs of blocks that are not zero.
func (w *Writer) writeBlocks(data []byte, offset int64) error {
	for at := 0; at < len(data); {
		end := at
		for end < len(data) && !bytes.Equal(data[end:end+block], zeros[:block]) {
			end += block
		}
		if end > at {
			if _, err := w.file.WriteAt(data[at:end], offset+int64(at)); err != nil {
				return err
			}
		}
		at = end + block
	}
	return nil
}

// Sum is that of what was written.
func (w *Writer) Sum() uint32 { return w.sums.sum() }

// Close closes the file. It may be called again.
func (w *Writer) Close() error {
	if err := w.file.Close(); err != nil && !errors.Is(err, os.ErrClosed) {
		return err
	}
	return nil
}
