package build

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"os"
	"path"
	"time"

	"github.com/erofs/go-erofs"
)

// writeEROFS writes the tree as a read-only file system image. Every file has
// the time built; the UUID is derived from the content, so equal trees give
// equal bytes.
func writeEROFS(ctx context.Context, out *os.File, t *tree, built time.Time, tell func(done int64)) error {
	w := erofs.Create(out, erofs.WithBuildTime(uint64(built.Unix()), 0))
	if err := w.CopyFrom(&treeFS{t: t, ctx: ctx, built: built, tell: tell}); err != nil {
		return fmt.Errorf("writing the root: %w", err)
	}
	if err := w.Close(); err != nil {
		return fmt.Errorf("writing the root: %w", err)
	}
	if err := sealEROFS(out); err != nil {
		return fmt.Errorf("sealing the root: %w", err)
	}
	return nil
}

// Offsets in an EROFS superblock (fs/erofs/erofs_fs.h), from the start of the
// image.
const (
	erofsSuper    = 1024
	erofsChecksum = erofsSuper + 4
	erofsCompat   = erofsSuper + 8
	erofsUUID     = erofsSuper + 48
	erofsBlock    = 4096
	erofsFeatSum  = 1 // EROFS_FEATURE_COMPAT_SB_CHKSUM
)

// sealEROFS gives an image a UUID, which go-erofs does not, and the checksum of
// its superblock, which the kernel compares.
func sealEROFS(f *os.File) error {
	h := sha256.New()
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return err
	}
	if _, err := io.Copy(h, f); err != nil {
		return err
	}
	block := make([]byte, erofsBlock)
	if _, err := f.ReadAt(block, 0); err != nil {
		return err
	}
	uuid := block[erofsUUID : erofsUUID+16]
	copy(uuid, h.Sum(nil))
	uuid[6] = uuid[6]&0x0f | 0x80 // version 8: made by its own rules (RFC 9562)
	uuid[8] = uuid[8]&0x3f | 0x80
	binary.LittleEndian.PutUint32(block[erofsCompat:], binary.LittleEndian.Uint32(block[erofsCompat:])|erofsFeatSum)
	// CRC-32C of the block's rest with the checksum's own field zero, and
	// without the final inversion that hash/crc32 makes.
	sum := ^crc32.Checksum(block[erofsSuper:], crc32.MakeTable(crc32.Castagnoli))
	binary.LittleEndian.PutUint32(block[erofsChecksum:], sum)
	_, err := f.WriteAt(block, 0)
	return err
}

// treeFS shows a tree as the kind of file system that go-erofs copies: its
// files' Sys is an *erofs.Stat.
type treeFS struct {
	t     *tree
	ctx   context.Context
	built time.Time
	tell  func(done int64)
	done  int64
}

func (f *treeFS) get(op, name string) (*node, error) {
	if err := f.ctx.Err(); err != nil {
		return nil, err
	}
	n := f.t.at(name)
	if !fs.ValidPath(name) || n == nil {
		return nil, &fs.PathError{Op: op, Path: name, Err: fs.ErrNotExist}
	}
	return n, nil
}

func (f *treeFS) info(name string, n *node) *treeInfo {
	links := 1
	if n.typ == fs.ModeDir {
		links = 2
		for _, c := range n.children {
			if c.typ == fs.ModeDir {
				links++
			}
		}
	}
	return &treeInfo{name: path.Base(name), n: n, built: f.built, links: links}
}

// Open implements fs.FS.
func (f *treeFS) Open(name string) (fs.File, error) {
	n, err := f.get("open", name)
	if err != nil {
		return nil, err
	}
	file := &treeFile{fs: f, info: f.info(name, n)}
	if n.typ == 0 {
		file.r = io.NewSectionReader(n.data, 0, n.size)
	}
	return file, nil
}

// ReadDir implements fs.ReadDirFS.
func (f *treeFS) ReadDir(name string) ([]fs.DirEntry, error) {
	n, err := f.get("readdir", name)
	if err != nil {
		return nil, err
	}
	var out []fs.DirEntry
	for _, child := range n.names() {
		out = append(out, fs.FileInfoToDirEntry(f.info(path.Join(name, child), n.children[child])))
	}
	return out, nil
}

// Stat implements fs.StatFS.
func (f *treeFS) Stat(name string) (fs.FileInfo, error) {
	n, err := f.get("stat", name)
	if err != nil {
		return nil, err
	}
	return f.info(name, n), nil
}

// ReadLink returns a symlink's target.
func (f *treeFS) ReadLink(name string) (string, error) {
	n, err := f.get("readlink", name)
	if err != nil {
		return "", err
	}
	return n.link, nil
}

type treeInfo struct {
	name  string
	n     *node
	built time.Time
	links int
}

func (i *treeInfo) Name() string       { return i.name }
func (i *treeInfo) Size() int64        { return i.n.size }
func (i *treeInfo) ModTime() time.Time { return i.built }
func (i *treeInfo) IsDir() bool        { return i.n.typ == fs.ModeDir }

func (i *treeInfo) Mode() fs.FileMode {
	m := i.n.typ | fs.FileMode(i.n.mode&0o777)
	for bit, mode := range map[uint32]fs.FileMode{0o4000: fs.ModeSetuid, 0o2000: fs.ModeSetgid, 0o1000: fs.ModeSticky} {
		if i.n.mode&bit != 0 {
			m |= mode
		}
	}
	return m
}

func (i *treeInfo) Sys() any {
	return &erofs.Stat{
		Mode: i.Mode(), Size: i.n.size, Rdev: i.n.rdev, UID: uint32(i.n.uid), GID: uint32(i.n.gid),
		Mtime: uint64(i.built.Unix()), Nlink: i.links, Xattrs: i.n.xattrs,
	}
}

type treeFile struct {
	fs   *treeFS
	info *treeInfo
	r    io.Reader
}

func (f *treeFile) Stat() (fs.FileInfo, error) { return f.info, nil }
func (f *treeFile) Close() error               { return nil }

func (f *treeFile) Read(p []byte) (int, error) {
	if err := f.fs.ctx.Err(); err != nil {
		return 0, err
	}
	if f.r == nil {
		return 0, errors.New("it is no regular file")
	}
	n, err := f.r.Read(p)
	f.fs.done += int64(n)
	if f.fs.tell != nil && n > 0 {
		f.fs.tell(f.fs.done)
	}
	return n, err
}
