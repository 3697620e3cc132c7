// Command hellofs mounts a file system of one file, "hello", by FUSE, as sshfs and rclone
// do; the tests run it in a container, where libfuse is not.
//
//	hellofs DIR
//
// It prints "ready" and serves until it is unmounted. The format is that of the kernel's
// include/uapi/linux/fuse.h, version 7.31.
package main

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"log"
	"os"
	"syscall"
)

const text = "hello by FUSE\n"

// The nodes.
const (
	rootNode  = 1
	helloNode = 2
)

// The requests that there is an answer to.
const (
	opLookup      = 1
	opForget      = 2
	opGetattr     = 3
	opOpen        = 14
	opRead        = 15
	opRelease     = 18
	opFlush       = 25
	opInit        = 26
	opInterrupt   = 36
	opBatchForget = 42
)

type requestHeader struct {
	Len, Opcode          uint32
	Unique, Node         uint64
	UID, GID, PID, Extra uint32
}

type replyHeader struct {
	Len    uint32
	Error  int32
	Unique uint64
}

type attributes struct {
	Ino, Size, Blocks, Atime, Mtime, Ctime           uint64
	AtimeNS, MtimeNS, CtimeNS, Mode, Links, UID, GID uint32
	Device, BlockSize, Flags                         uint32
}

type entry struct {
	Node, Generation, Valid, AttributesValid uint64
	ValidNS, AttributesValidNS               uint32
	Attributes                               attributes
}

func main() {
	log.SetFlags(0)
	log.SetPrefix("hellofs: ")
	fd, err := syscall.Open("/dev/fuse", syscall.O_RDWR|syscall.O_CLOEXEC, 0)
	if err != nil {
		log.Fatalf("opening /dev/fuse: %v", err)
	}
	options := fmt.Sprintf("fd=%d,rootmode=40000,user_id=0,group_id=0", fd)
	if err := syscall.Mount("hellofs", os.Args[1], "fuse.hellofs", syscall.MS_NOSUID|syscall.MS_NODEV, options); err != nil {
		log.Fatalf("mounting: %v", err)
	}
	fmt.Println("ready")
	if err := serve(fd); err != nil {
		log.Fatal(err)
	}
}

// serve answers requests until the file system is unmounted.
func serve(fd int) error {
	buf := make([]byte, 256<<10)
	for {
		n, err := syscall.Read(fd, buf)
		switch {
		case errors.Is(err, syscall.EINTR), errors.Is(err, syscall.ENOENT): // taken back
			continue
		case errors.Is(err, syscall.ENODEV):
			return nil
		case err != nil:
			return fmt.Errorf("reading a request: %w", err)
		}
		var request requestHeader
		size, err := binary.Decode(buf[:n], binary.NativeEndian, &request)
		if err != nil {
			return fmt.Errorf("reading a request: %w", err)
		}
		answer, errno, silent := reply(request, buf[size:n])
		if silent {
			continue
		}
		var out bytes.Buffer
		header := replyHeader{uint32(binary.Size(replyHeader{}) + len(answer)), -int32(errno), request.Unique}
		binary.Write(&out, binary.NativeEndian, header)
		out.Write(answer)
		if _, err := syscall.Write(fd, out.Bytes()); err != nil && !errors.Is(err, syscall.ENOENT) {
			return fmt.Errorf("answering request %d: %w", request.Opcode, err)
		}
	}
}

// reply is the answer to a request. Some have none.
func reply(request requestHeader, body []byte) (answer []byte, errno syscall.Errno, silent bool) {
	encode := func(v any) []byte {
		b, err := binary.Append(nil, binary.NativeEndian, v)
		if err != nil {
			log.Fatal(err) // of a type without a size
		}
		return b
	}
	switch request.Opcode {
	case opForget, opBatchForget, opInterrupt:
		return nil, 0, true
	case opInit:
		return encode([16]uint32{0: 7, 1: 31, 5: 64 << 10}), 0, false // major, minor, most that is written
	case opLookup:
		if name, _, _ := bytes.Cut(body, []byte{0}); string(name) != "hello" {
			return nil, syscall.ENOENT, false
		}
		return encode(entry{Node: helloNode, Attributes: attributesOf(helloNode)}), 0, false
	case opGetattr:
		return encode(struct {
			Valid           uint64
			ValidNS, Unused uint32
			Attributes      attributes
		}{Attributes: attributesOf(request.Node)}), 0, false
	case opOpen:
		return encode([2]uint64{}), 0, false
	case opRead:
		offset := min(binary.NativeEndian.Uint64(body[8:]), uint64(len(text)))
		return []byte(text[offset:]), 0, false
	case opRelease, opFlush:
		return nil, 0, false
	}
	return nil, syscall.ENOSYS, false
}

func attributesOf(node uint64) attributes {
	if node == rootNode {
		return attributes{Ino: node, Mode: syscall.S_IFDIR | 0o755, Links: 2, BlockSize: 4096}
	}
	return attributes{Ino: node, Size: uint64(len(text)), Mode: syscall.S_IFREG | 0o444, Links: 1, BlockSize: 4096}
}
