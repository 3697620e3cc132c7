package image

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"

	"github.com/google/renameio/v2"

	"github.com/hyve-vm/hyve/internal/bounded"
	"github.com/hyve-vm/hyve/internal/hint"
)

// stampFile remembers, in the image's directory, what was verified.
const stampFile = ".verified"

// stamps are the states in which files, by their names, were hashed.
type stamps map[string]stamp

// stamp identifies one state of a file without reading it.
type stamp struct {
	Size  int64  `json:"size"`
	Inode uint64 `json:"inode"`
	Mtime int64  `json:"mtime"` // ns since 1970
	Ctime int64  `json:"ctime"` // ns since 1970; a change of the file's bytes cannot hide from it without root
}

// Verify reads and hashes every file of the image.
func (s *Store) Verify(ctx context.Context, img *Image) error {
	return img.verify(ctx)
}

func (i *Image) verify(ctx context.Context) error {
	for _, f := range i.Manifest.Files {
		if err := i.verifyFile(ctx, f); err != nil {
			return err
		}
	}
	return nil
}

// Check verifies an image that is about to be used. Files in the state in which they
// were hashed before are not read again: it would take longer than all else that
// hyve does to thaw a machine.
func (s *Store) Check(img *Image) error {
	known, now := img.readStamps(), stamps{}
	for _, name := range []string{KernelFile, InitrdFile, RootFile} {
		f, _ := img.file(name) // load made sure that it is there
		path := filepath.Join(img.Dir, name)
		before, err := stampOf(path)
		if err != nil {
			return broken(img.Digest, pathless(err, path))
		}
		if known[name] != before || before.Size != f.Size {
			if err := img.verifyFile(context.Background(), f); err != nil {
				return err
			}
		}
		if after, err := stampOf(path); err == nil && after == before {
			now[name] = after
		}
	}
	if !maps.Equal(known, now) {
		img.writeStamps(now)
	}
	return nil
}

// readStamps returns what is known to be verified: nothing, if it cannot be read.
func (i *Image) readStamps() (s stamps) {
	data, err := bounded.ReadFile(filepath.Join(i.Dir, stampFile), bounded.MaxDocument)
	if err != nil || json.Unmarshal(data, &s) != nil {
		return nil
	}
	return s
}

// writeStamps may fail: then the next use hashes again.
func (i *Image) writeStamps(s stamps) {
	if data, err := json.Marshal(s); err == nil {
		_ = renameio.WriteFile(filepath.Join(i.Dir, stampFile), append(data, '\n'), 0o600)
	}
}

// verifyFile compares one file with the manifest.
func (i *Image) verifyFile(ctx context.Context, want File) error {
	path := filepath.Join(i.Dir, want.Name)
	f, err := os.Open(path)
	if err != nil {
		return unreadable(i.Digest, path, err)
	}
	defer f.Close()
	if st, err := f.Stat(); err == nil && st.Size() != want.Size {
		return broken(i.Digest, fmt.Errorf("%s has %d bytes, not %d", path, st.Size(), want.Size))
	}
	size, sum, err := hash(ctx, f)
	if err != nil {
		if ctx.Err() != nil {
			return fmt.Errorf("verifying image %s: %w", short(i.Digest), ctx.Err())
		}
		return unreadable(i.Digest, path, err)
	}
	if size != want.Size || sum != want.SHA256 {
		return broken(i.Digest, fmt.Errorf("the SHA-256 of %s is not the one in its manifest", path))
	}
	return nil
}

// unreadable tells a missing file, which is damage, from one that this user may
// not read.
func unreadable(digest, path string, err error) error {
	if errors.Is(err, fs.ErrPermission) {
		return hint.With(
			fmt.Errorf("reading image %s: %w", short(digest), err),
			"make it readable again, or remove it with `hyve image rm` and run `hyve image build`",
		)
	}
	return broken(digest, pathless(err, path))
}

// hash returns the size and SHA-256 of what r holds.
func hash(ctx context.Context, r io.Reader) (int64, string, error) {
	h := sha256.New()
	n, err := io.CopyBuffer(struct{ io.Writer }{h}, contextReader{ctx, r}, make([]byte, 1<<20))
	return n, hex.EncodeToString(h.Sum(nil)), err
}

type contextReader struct {
	ctx context.Context
	r   io.Reader
}

func (c contextReader) Read(p []byte) (int, error) {
	if err := c.ctx.Err(); err != nil {
		return 0, err
	}
	return c.r.Read(p)
}
