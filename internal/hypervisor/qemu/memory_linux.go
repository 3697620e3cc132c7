package qemu

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"os"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/hyve-vm/hyve/internal/sparse"
)

// memoryHidden says why a guest's memory cannot be read, if so. Where the security module
// Yama lets a process look into its own children alone, QEMU is one; it can forbid more.
func memoryHidden() string {
	const scope = "/proc/sys/kernel/yama/ptrace_scope"
	if b, err := os.ReadFile(scope); err == nil && len(b) > 0 && b[0] >= '2' {
		return fmt.Sprintf("this host lets nobody read a guest's memory (%s is %c)", scope, b[0])
	}
	return ""
}

// memoryPiece is how much of a guest's memory is looked at at a time, in bytes. It is a
// multiple of every page size.
const memoryPiece = 2 << 20

// What the kernel tells of a page, see proc_pid_pagemap(5).
const (
	pagePresent = 1 << 63
	pageSwapped = 1 << 62
	pageOfFile  = 1 << 61 // or shared, but guest memory is not
)

// saveMemory writes the memory of the paused guest to a file of its size. The kernel
// says which pages the guest has touched; those that it only read are taken from the file
// that the memory began as. Nothing is touched that was not before, so that it costs what
// the guest has used.
func (vm *VM) saveMemory(ctx context.Context, to *sparse.Writer) error {
	base, err := vm.memoryAddress(ctx)
	if err != nil {
		return err
	}
	pages, err := os.Open(fmt.Sprintf("/proc/%d/pagemap", vm.PID()))
	if err != nil {
		return err
	}
	defer pages.Close()
	return sparse.Each(vm.cfg.Memory, memoryPiece, func(buf []byte, offset int64) error {
		if err := ctx.Err(); err != nil {
			return err
		}
		address := base + uintptr(offset)
		own, err := ownPages(pages, address, len(buf))
		if err != nil {
			return fmt.Errorf("looking at the guest's pages: %w", err)
		}
		has, err := vm.readOrigin(buf, offset)
		if err != nil || !has && len(own) == 0 {
			return err
		}
		if !has {
			clear(buf)
		}
		if err := vm.transfer(unix.ProcessVMReadv, buf, address, own); err != nil {
			return fmt.Errorf("reading the guest's memory: %w", err)
		}
		if err := to.WriteAt(buf, offset); err != nil {
			return fmt.Errorf("writing the guest's memory: %w", err)
		}
		return nil
	})
}

// ownPages returns the parts of so many bytes at an address that are a process' own.
func ownPages(pages *os.File, address uintptr, size int) ([]span, error) {
	pageSize := os.Getpagesize()
	entries := make([]byte, size/pageSize*8)
	if _, err := pages.ReadAt(entries, int64(address)/int64(pageSize)*8); err != nil {
		return nil, err
	}
	var own []span
	for at := 0; at < size; at += pageSize {
		entry := binary.NativeEndian.Uint64(entries[at/pageSize*8:])
		if entry&pageSwapped == 0 && (entry&pagePresent == 0 || entry&pageOfFile != 0) {
			continue
		}
		if last := len(own) - 1; last >= 0 && own[last].end == at {
			own[last].end += pageSize
		} else {
			own = append(own, span{at, at + pageSize})
		}
	}
	return own, nil
}

// readOrigin fills buf if the file that the memory began as has anything there, and tells
// whether it has.
func (vm *VM) readOrigin(buf []byte, offset int64) (has bool, err error) {
	if vm.origin == nil {
		return false, nil
	}
	has, err = sparse.HasData(vm.origin, offset, offset+int64(len(buf)))
	if err != nil || !has {
		return false, err
	}
	_, err = vm.origin.ReadAt(buf, offset)
	return true, err
}

// loadMemory writes a file that saveMemory has made into the memory of a guest that has
// not begun to run.
func (vm *VM) loadMemory(ctx context.Context, from *os.File) error {
	base, err := vm.memoryAddress(ctx)
	if err != nil {
		return err
	}
	return sparse.Each(vm.cfg.Memory, memoryPiece, func(buf []byte, offset int64) error {
		return sparse.Extents(from, offset, offset+int64(len(buf)), func(start, end int64) error {
			if _, err := io.ReadFull(io.NewSectionReader(from, start, end-start), buf[:end-start]); err != nil {
				return err
			}
			err := vm.transfer(unix.ProcessVMWritev, buf, base+uintptr(start), []span{{0, int(end - start)}})
			if err != nil {
				return fmt.Errorf("writing the guest's memory: %w", err)
			}
			return nil
		})
	})
}

// A span is a part of a buffer.
type span struct{ start, end int }

// maxVectors is how many parts one system call takes (UIO_MAXIOV).
const maxVectors = 1024

// transfer copies spans of buf from or to QEMU's memory, where buf begins at address.
func (vm *VM) transfer(call func(int, []unix.Iovec, []unix.RemoteIovec, uint) (int, error), buf []byte, address uintptr, spans []span) error {
	for len(spans) > 0 {
		n := min(len(spans), maxVectors)
		ours, theirs := make([]unix.Iovec, n), make([]unix.RemoteIovec, n)
		want := 0
		for i, s := range spans[:n] {
			ours[i].Base = (*byte)(unsafe.Pointer(&buf[s.start]))
			ours[i].SetLen(s.end - s.start)
			theirs[i] = unix.RemoteIovec{Base: address + uintptr(s.start), Len: s.end - s.start}
			want += s.end - s.start
		}
		got, err := call(vm.PID(), ours, theirs, 0)
		if err == nil && got != want {
			err = io.ErrUnexpectedEOF
		}
		if err != nil {
			return err
		}
		spans = spans[n:]
	}
	return nil
}

// memoryAddress asks where in QEMU's memory the guest's begins. Only the human
// monitor tells.
func (vm *VM) memoryAddress(ctx context.Context) (uintptr, error) {
	start := "0"
	if vm.arch == "arm64" {
		start = "0x40000000" // of the board "virt"
	}
	var answer string
	err := vm.monitor.Execute(ctx, "human-monitor-command", opts{"command-line": "gpa2hva " + start}, &answer)
	if err != nil {
		return 0, err
	}
	// Host virtual address for 0x0 (ram) is 0x7f27e7e00000
	words := strings.Fields(answer)
	var address uintptr
	if len(words) == 0 || !strings.Contains(answer, "("+memoryID+")") {
		return 0, fmt.Errorf("looking for the guest's memory: QEMU says %q", answer)
	}
	if _, err := fmt.Sscanf(words[len(words)-1], "0x%x", &address); err != nil {
		return 0, fmt.Errorf("looking for the guest's memory: QEMU says %q", answer)
	}
	return address, nil
}
