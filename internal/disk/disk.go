// Package disk makes and copies data disks: raw images in sparse files.
package disk

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/hyve-vm/hyve/internal/sparse"
)

// Make makes an empty disk of that many bytes, which take no room yet.
func Make(path string, size int64) error {
	file, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("making the disk: %w", err)
	}
	if err := errors.Join(file.Truncate(size), file.Sync(), file.Close()); err != nil {
		return fmt.Errorf("making the disk: %w", err)
	}
	return nil
}

// Grow makes a disk that nobody has open as large as that, if it is smaller.
func Grow(path string, size int64) error {
	info, err := os.Stat(path)
	if err == nil && info.Size() < size {
		err = os.Truncate(path, size)
	}
	if err != nil {
		return fmt.Errorf("growing a disk: %w", err)
	}
	return nil
}

// Copy copies a disk that nobody writes to: as a clone that shares its blocks where
// the file system can do that, else what is not a hole. After an error there is no
// copy.
func Copy(ctx context.Context, to, from string) error {
	if err := clone(to, from); err == nil {
		return nil
	}
	if err := copySparse(ctx, to, from, nil, func(int64) {}); err != nil {
		return fmt.Errorf("copying a disk: %w", err)
	}
	return nil
}

// CopyPart makes a disk of that size whose beginning is a part of another one, to which
// nobody writes. Copied is told how many bytes were, one piece after another, perhaps
// several at once. After an error there is no new disk.
func CopyPart(ctx context.Context, to string, size int64, from string, part Part, copied func(bytes int64)) error {
	err := copySparse(ctx, to, from, &part, copied)
	if err == nil {
		if err = os.Truncate(to, size); err != nil {
			os.Remove(to)
		}
	}
	if err != nil {
		return fmt.Errorf("copying a disk: %w", err)
	}
	return nil
}

// piece is how many bytes one of several copiers takes at a time.
const piece = 16 << 20

// copySparse copies what is not a hole in a part of a file, in all of it if that is nil.
func copySparse(ctx context.Context, to, from string, part *Part, copied func(bytes int64)) (err error) {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	info, err := in.Stat()
	if err != nil {
		return err
	}
	out, err := os.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer func() {
		if err = errors.Join(err, out.Close()); err != nil {
			os.Remove(to)
		}
	}()
	if part == nil {
		part = &Part{0, info.Size()}
	}
	if err := out.Truncate(part.Size); err != nil {
		return err
	}
	copiers, ctx := errgroup.WithContext(ctx)
	copiers.SetLimit(runtime.NumCPU())
	err = sparse.Extents(in, part.Start, part.Start+part.Size, func(start, end int64) error {
		for ; start < end; start += piece {
			from := io.NewSectionReader(in, start, min(piece, end-start))
			to := io.NewOffsetWriter(out, start-part.Start)
			copiers.Go(func() error {
				if ctx.Err() != nil {
					return context.Cause(ctx)
				}
				// Most disks are small, and in many small pieces.
				buf := make([]byte, min(from.Size(), 1<<20))
				n, err := io.CopyBuffer(struct{ io.Writer }{to}, struct{ io.Reader }{from}, buf)
				copied(n)
				return err
			})
		}
		return nil
	})
	return errors.Join(err, copiers.Wait())
}

// Replace puts a fresh disk in the place of another one, whole and for good.
func Replace(path, fresh string) error {
	for _, step := range []func() error{
		func() error { return Sync(fresh) },
		func() error { return os.Rename(fresh, path) },
		func() error { return Sync(filepath.Dir(path)) },
	} {
		if err := step(); err != nil {
			return fmt.Errorf("replacing a disk: %w", err)
		}
	}
	return nil
}

// Sync makes what a file or a directory holds outlive a crash of the host.
func Sync(path string) error {
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(file.Sync(), file.Close())
}

// Used tells how many bytes a disk takes; it may share some of them with its copies.
func Used(path string) (int64, error) {
	var stat unix.Stat_t
	if err := unix.Stat(path, &stat); err != nil {
		return 0, fmt.Errorf("measuring a disk: %w", err)
	}
	return stat.Blocks * 512, nil
}
