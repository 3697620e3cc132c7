package sparse

import (
	"bytes"
	"os"
	"path/filepath"
	"syscall"
	"testing"
)

// What a Writer writes is what it was given, its zeros are holes, and its sum is that of
// the file, also of one whose zeros are none.
func TestWriter(t *testing.T) {
	const size = 40 * piece
	for name, blocks := range map[string][]int{ // that are not zero
		"nothing":         nil,
		"first":           {0},
		"last":            {size/block - 1},
		"here and there":  {1, 2, 63, 64, 65, 200, 2000},
		"a piece and one": {64, 65, 66, 67, 68, 128},
	} {
		t.Run(name, func(t *testing.T) {
			want := make([]byte, size)
			for _, n := range blocks {
				want[n*block+n%block] = byte(n + 1)
			}
			dir := t.TempDir()
			path := filepath.Join(dir, "sparse")
			w, err := Create(path, size)
			if err != nil {
				t.Fatal(err)
			}
			err = Each(size, 4*piece, func(buf []byte, offset int64) error {
				return w.WriteAt(want[offset:offset+int64(len(buf))], offset)
			})
			if err != nil {
				t.Fatal(err)
			}
			if err := w.Close(); err != nil {
				t.Fatal(err)
			}
			if got, _ := os.ReadFile(path); !bytes.Equal(got, want) {
				t.Error("the file is another")
			}
			info, err := os.Stat(path)
			if err != nil {
				t.Fatal(err)
			}
			if used := info.Sys().(*syscall.Stat_t).Blocks * 512; used > int64(len(blocks)+1)*block*2 {
				t.Errorf("%d bytes are used for %d blocks", used, len(blocks))
			}
			full := filepath.Join(dir, "full")
			if err := os.WriteFile(full, want, 0o600); err != nil {
				t.Fatal(err)
			}
			for _, path := range []string{path, full} {
				if n, sum, err := Sum(path); err != nil || n != size || sum != w.Sum() {
					t.Errorf("%s: %d bytes, sum %d, %v; want %d, %d", path, n, sum, err, size, w.Sum())
				}
			}
			file, err := os.OpenFile(full, os.O_RDWR, 0)
			if err != nil {
				t.Fatal(err)
			}
			file.WriteAt([]byte{99}, size-7)
			file.Close()
			if _, sum, _ := Sum(full); sum == w.Sum() {
				t.Error("another file has the same sum")
			}
		})
	}
	if _, err := Create(filepath.Join(t.TempDir(), "odd"), piece+1); err == nil {
		t.Error("a file of an odd size is made")
	}
}

func TestSumOfShortFiles(t *testing.T) {
	seen := map[uint32]int{}
	for _, size := range []int{0, 1, block, piece - 1, piece, piece + 1} {
		path := filepath.Join(t.TempDir(), "short")
		if err := os.WriteFile(path, bytes.Repeat([]byte{7}, size), 0o600); err != nil {
			t.Fatal(err)
		}
		n, sum, err := Sum(path)
		if err != nil || n != int64(size) {
			t.Errorf("%d bytes: %d, %v", size, n, err)
		}
		if other, ok := seen[sum]; ok {
			t.Errorf("%d and %d bytes have the same sum", size, other)
		}
		seen[sum] = size
	}
}
