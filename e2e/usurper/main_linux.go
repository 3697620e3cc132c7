// Command usurper speaks to the host in the place of the guest's PID 1, as the guest's root
// can: the tests run it in a privileged container that sees the guest's processes.
//
//	usurper SECONDS LINE...
//
// It says the lines over and over, with another number for each %d every time, then prints
// "ready N", with how many it has said.
package main

import (
	"errors"
	"fmt"
	"log"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

func main() {
	log.SetFlags(0)
	log.SetPrefix("usurper: ")
	seconds, err := strconv.Atoi(os.Args[1])
	if err != nil {
		log.Fatal(err)
	}
	fd, err := channel()
	if err != nil {
		log.Fatal(err)
	}
	said := 0
	for end := time.Now().Add(time.Duration(seconds) * time.Second); time.Now().Before(end); {
		for _, line := range os.Args[2:] {
			// No number of PID 1's own requests is as high.
			text := strings.ReplaceAll(line, "%d", strconv.Itoa(1_000_000_000+said))
			if err := say(fd, "\n"+text+"\n"); err != nil {
				log.Fatal(err)
			}
			said++
		}
	}
	fmt.Println("ready", said)
	time.Sleep(time.Hour)
}

// channel is PID 1's own descriptor of its channel to the host, which nobody can open
// twice.
func channel() (fd int, err error) {
	pid1, err := unix.PidfdOpen(1, 0)
	if err != nil {
		return 0, fmt.Errorf("opening PID 1: %w", err)
	}
	entries, err := os.ReadDir("/proc/1/fd")
	if err != nil {
		return 0, err
	}
	for _, entry := range entries {
		target, err := os.Readlink(filepath.Join("/proc/1/fd", entry.Name()))
		if err != nil || !strings.HasPrefix(target, "/dev/vport") && !strings.HasPrefix(target, "/dev/virtio-ports/") {
			continue
		}
		number, err := strconv.Atoi(entry.Name())
		if err != nil {
			return 0, err
		}
		if fd, err = unix.PidfdGetfd(pid1, number, 0); err != nil {
			return 0, fmt.Errorf("taking %s of PID 1: %w", target, err)
		}
		return fd, nil
	}
	return 0, errors.New("PID 1 has no channel to the host")
}

// say writes all of a text. The descriptor does not block.
func say(fd int, text string) error {
	for text != "" {
		n, err := unix.Write(fd, []byte(text))
		switch {
		case errors.Is(err, unix.EAGAIN):
			if _, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLOUT}}, 1000); err != nil && !errors.Is(err, unix.EINTR) {
				return fmt.Errorf("waiting for the host: %w", err)
			}
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return fmt.Errorf("writing to the host: %w", err)
		default:
			text = text[n:]
		}
	}
	return nil
}
