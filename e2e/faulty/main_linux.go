// Command faulty is QEMU, but for thaws: these have a fault of which QEMU says nothing. The
// name that it is called by says which.
//
//	clock   time goes on as instructions do, faster than the host's
//	memory  one byte of some pages is another
package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

func main() {
	log.SetFlags(0)
	log.SetPrefix("faulty: ")
	qemu, err := exec.LookPath("qemu-system-x86_64")
	if err != nil {
		log.Fatal(err)
	}
	args := os.Args
	if slices.Contains(args, "-incoming") {
		switch filepath.Base(args[0]) {
		case "clock":
			args = spoilClock(args)
		case "memory":
			args, err = spoilMemory(args)
		}
	}
	if err == nil {
		err = unix.Exec(qemu, args, os.Environ())
	}
	log.Fatal(err)
}

// spoilClock returns the arguments of a QEMU that counts instructions instead of time, 128 ns
// each, which is for one thread.
func spoilClock(args []string) []string {
	args = slices.Clone(args)
	for i, arg := range args {
		if strings.HasPrefix(arg, "tcg,") {
			args[i] = "tcg,thread=single"
		}
	}
	return append(args, "-icount", "shift=7,sleep=off")
}

// spoilMemory returns the arguments of a QEMU whose memory begins as a copy of the file that
// it was to, in which the first page of each program has a byte changed that nobody reads.
func spoilMemory(args []string) ([]string, error) {
	args = slices.Clone(args)
	for i, arg := range args {
		var object map[string]any
		if json.Unmarshal([]byte(arg), &object) != nil || object["qom-type"] != "memory-backend-file" {
			continue
		}
		copied, err := spoiledCopy(fmt.Sprint(object["mem-path"]))
		if err != nil {
			return nil, err
		}
		object["mem-path"] = fmt.Sprintf("/proc/self/fd/%d", copied)
		spoiled, err := json.Marshal(object)
		args[i] = string(spoiled)
		return args, err
	}
	return nil, fmt.Errorf("no file of the memory among %q", args)
}

// spoiledCopy returns the descriptor of the copy, which the next program inherits.
func spoiledCopy(path string) (int, error) {
	from, err := os.OpenFile(path, os.O_RDWR, 0) // as QEMU does, or hyve does not let it
	if err != nil {
		return 0, err
	}
	info, err := from.Stat()
	if err != nil {
		return 0, err
	}
	fd, err := unix.MemfdCreate("memory", 0)
	if err != nil {
		return 0, err
	}
	if err := unix.Ftruncate(fd, info.Size()); err != nil {
		return 0, err
	}
	page := make([]byte, os.Getpagesize())
	zeros := make([]byte, len(page))
	for at := int64(0); at < info.Size(); at += int64(len(page)) {
		if _, err := from.ReadAt(page, at); err != nil {
			return 0, err
		}
		if bytes.HasPrefix(page, []byte("\x7fELF")) {
			page[15]++ // of the padding, see elf(5)
		}
		if bytes.Equal(page, zeros) {
			continue
		}
		if _, err := unix.Pwrite(fd, page, at); err != nil {
			return 0, err
		}
	}
	return fd, nil
}
