package bounded

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

func TestReadFile(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "file")
	if err := os.WriteFile(path, []byte("0123456789"), 0o600); err != nil {
		t.Fatal(err)
	}
	if data, err := ReadFile(path, 10); err != nil || string(data) != "0123456789" {
		t.Errorf("%q, %v", data, err)
	}
	if data, err := ReadFile(path, 9); err == nil || !strings.Contains(err.Error(), path+": it is longer than 9 bytes") {
		t.Errorf("%q, %v", data, err)
	}
	if data, err := Tail(path, 4); err != nil || string(data) != "6789" {
		t.Errorf("%q, %v", data, err)
	}
	if data, err := Tail(path, 40); err != nil || string(data) != "0123456789" {
		t.Errorf("%q, %v", data, err)
	}
	// As long as a disk, and of no length at all.
	if err := os.Truncate(path, 1<<40); err != nil {
		t.Fatal(err)
	}
	if _, err := ReadFile(path, MaxDocument); err == nil {
		t.Error("a terabyte was read")
	}
	if data, err := Tail(path, 64<<10); err != nil || len(data) != 64<<10 {
		t.Errorf("%d bytes, %v", len(data), err)
	}
	var size *SizeError
	if _, err := ReadFile("/proc/self/stat", 10); err == nil || errors.Is(err, fs.ErrNotExist) == errors.As(err, &size) {
		t.Errorf("/proc/self/stat, which says that it is empty: %v", err)
	}
	if data, err := ReadFile(filepath.Join(dir, "none"), 100); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("%q, %v", data, err)
	}
}

// What never ends is not begun.
func TestIrregularFiles(t *testing.T) {
	dir := t.TempDir()
	pipe, link := filepath.Join(dir, "pipe"), filepath.Join(dir, "link")
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("/dev/zero", link); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{pipe, link, "/dev/zero", dir} {
		read := make(chan error, 1)
		go func() {
			_, err := ReadFile(path, MaxDocument)
			read <- err
		}()
		select {
		case err := <-read:
			if !errors.Is(err, ErrIrregular) {
				t.Errorf("%s: %v", path, err)
			}
		case <-time.After(10 * time.Second):
			t.Errorf("%s is still being read", path)
		}
	}
}

func FuzzLastLines(f *testing.F) {
	f.Add([]byte("one\ntwo\nthree"), 2)
	f.Add([]byte("one\ntwo\n"), 1)
	f.Add([]byte(strings.Repeat("x\n", searchStep)), searchStep-1)
	f.Add([]byte("\n\n\n"), 2)
	f.Add([]byte(nil), 1)
	f.Fuzz(func(t *testing.T, data []byte, n int) {
		at, err := LastLines(bytes.NewReader(data), int64(len(data)), n)
		if err != nil {
			t.Fatal(err)
		}
		var lines [][]byte
		for line := range bytes.Lines(data) {
			lines = append(lines, line)
		}
		want := bytes.Join(lines[max(0, len(lines)-max(0, n)):], nil)
		if got := data[at:]; !bytes.Equal(got, want) {
			t.Errorf("the last %d lines of %q: %q, want %q", n, data, got, want)
		}
	})
}
