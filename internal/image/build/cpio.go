package build

import (
	"bytes"
	"fmt"
	"strings"
)

// A cpio builds an archive in the "newc" format that the kernel takes for an
// initial RAM file system (Documentation/driver-api/early-userspace/buffer-format.rst).
// All files are root's, all times are zero.
type cpio struct {
	b   bytes.Buffer
	ino int
}

const (
	cpioDir  = 0o040000
	cpioFile = 0o100000
	cpioChar = 0o020000
)

func (c *cpio) dir(name string) { c.entry(name, cpioDir|0o755, 2, nil, 0, 0) }

func (c *cpio) file(name string, mode uint32, data []byte) {
	c.entry(name, cpioFile|mode, 1, data, 0, 0)
}

func (c *cpio) char(name string, mode uint32, major, minor int) {
	c.entry(name, cpioChar|mode, 1, nil, major, minor)
}

func (c *cpio) entry(name string, mode uint32, links int, data []byte, major, minor int) {
	c.ino++
	name = strings.TrimPrefix(name, "/")
	fmt.Fprintf(&c.b, "070701%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%s\x00",
		c.ino, mode, 0, 0, links, 0, len(data), 0, 0, major, minor, len(name)+1, 0, name)
	c.pad()
	c.b.Write(data)
	c.pad()
}

// pad fills up to a multiple of four bytes.
func (c *cpio) pad() {
	for c.b.Len()%4 != 0 {
		c.b.WriteByte(0)
	}
}

// bytes ends the archive.
func (c *cpio) bytes() []byte {
	c.ino = -1
	c.entry("TRAILER!!!", 0, 1, nil, 0, 0)
	return c.b.Bytes()
}
