package build

import (
	"archive/tar"
	"bytes"
	"cmp"
	"context"
	"fmt"
	"io"
	"io/fs"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"

	"golang.org/x/sync/errgroup"

	"github.com/hyve-vm/hyve/internal/image/debian"
)

// A spool keeps unpacked contents in one unlinked file, so that hundreds of
// megabytes need not be in memory. It may be written from several goroutines.
type spool struct {
	f   *os.File
	end atomic.Int64
}

func newSpool(dir string) (*spool, error) {
	f, err := os.CreateTemp(dir, "spool-")
	if err != nil {
		return nil, fmt.Errorf("unpacking: %w", err)
	}
	if err := os.Remove(f.Name()); err != nil {
		f.Close()
		return nil, fmt.Errorf("unpacking: %w", err)
	}
	return &spool{f: f}, nil
}

func (s *spool) close() error { return s.f.Close() }

// add copies size bytes of r.
func (s *spool) add(r io.Reader, size int64) (io.ReaderAt, error) {
	at := s.end.Add(size) - size
	n, err := io.Copy(io.NewOffsetWriter(s.f, at), io.LimitReader(r, size))
	if err != nil {
		return nil, err
	}
	if n != size {
		return nil, io.ErrUnexpectedEOF
	}
	return io.NewSectionReader(s.f, at, size), nil
}

// An unpacked is a package's files, in its order.
type unpacked struct {
	names []string
	nodes []*node
}

// unpack reads packages, several at a time, and returns their files in the
// packages' order; of those after the first whole ones only what partly says. tell is told of the packed bytes that are done.
func unpack(ctx context.Context, s *spool, packages []*debian.Package, files []string, whole int, arch string, tell func(done int64)) ([]unpacked, error) {
	out := make([]unpacked, len(packages))
	var done atomic.Int64
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(runtime.NumCPU())
	for _, i := range largestFirst(packages) {
		group.Go(func() error {
			if err := ctx.Err(); err != nil {
				return err
			}
			name := packages[i].Name
			wanted := func(string) bool { return true }
			if i >= whole {
				wanted = func(path string) bool {
					return strings.HasPrefix(path, "usr/share/doc/") || slices.Contains(partly[name], mergeUsr(path))
				}
			}
			if err := out[i].read(ctx, s, files[i], wanted, only(arch)[name]); err != nil {
				return fmt.Errorf("unpacking %s %s: %w", packages[i].Name, packages[i].Version, err)
			}
			tell(done.Add(packages[i].Digest.Size))
			return nil
		})
	}
	return out, group.Wait()
}

// largestFirst returns the packages' indices so that no large one comes last,
// alone on one core.
func largestFirst(packages []*debian.Package) []int {
	order := make([]int, len(packages))
	for i := range order {
		order[i] = i
	}
	slices.SortStableFunc(order, func(a, b int) int {
		return cmp.Compare(packages[b].Digest.Size, packages[a].Digest.Size)
	})
	return order
}

// read reads what is wanted of a package, and nothing but the files in only, in their
// order, if there are any.
func (u *unpacked) read(ctx context.Context, s *spool, deb string, wanted func(name string) bool, only []string) error {
	byName := map[string]*node{}
	some := len(only) > 0
	err := debian.ReadDeb(deb, func(e debian.Entry, content io.Reader) error {
		if err := ctx.Err(); err != nil {
			return err
		}
		if !wanted(e.Name) {
			return nil
		}
		if some {
			if len(only) == 0 {
				return fs.SkipAll
			}
			if e.Name != only[0] {
				return nil
			}
			only = only[1:]
		}
		if e.Type == tar.TypeLink {
			target := byName[e.Link]
			if target == nil {
				if isDropped(e.Name) {
					return nil
				}
				return fmt.Errorf("%s is a link to %s, which is not there", e.Name, e.Link)
			}
			u.append(e.Name, target)
			return nil
		}
		if isDropped(mergeUsr(e.Name)) || droppedModule(mergeUsr(e.Name)) {
			return nil
		}
		n, err := s.node(e, content)
		if err != nil {
			return fmt.Errorf("%s: %w", e.Name, err)
		}
		name := e.Name
		if m, ok := strings.CutSuffix(name, ".ko.xz"); ok {
			name = m + ".ko"
		}
		byName[e.Name] = n
		u.append(name, n)
		return nil
	})
	if err == nil && len(only) > 0 {
		return fmt.Errorf("it has no %s", only[0])
	}
	return err
}

func (u *unpacked) append(name string, n *node) {
	u.names = append(u.names, name)
	u.nodes = append(u.nodes, n)
}

// node makes a node of a package's file. Kernel modules are decompressed: the
// kernel then maps them as they are.
func (s *spool) node(e debian.Entry, content io.Reader) (*node, error) {
	n := &node{mode: uint32(e.Mode), uid: e.UID, gid: e.GID, xattrs: e.Xattrs}
	var err error
	switch e.Type {
	case tar.TypeReg:
		n.size = e.Size
		if strings.HasSuffix(e.Name, ".ko.xz") {
			var ko []byte
			if ko, err = expandModule(content); err != nil {
				return nil, err
			}
			content, n.size = bytes.NewReader(ko), int64(len(ko))
		}
		n.data, err = s.add(content, n.size)
	case tar.TypeDir:
		n.typ, n.children = fs.ModeDir, map[string]*node{}
	case tar.TypeSymlink:
		n.typ, n.mode, n.link = fs.ModeSymlink, 0o777, e.Link
	case tar.TypeFifo:
		n.typ = fs.ModeNamedPipe
	default:
		err = fmt.Errorf("packages hold no device nodes")
	}
	return n, err
}
