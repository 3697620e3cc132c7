package disk

import (
	"bytes"
	"os"
	"path/filepath"
	"syscall"
	"testing"
)

// A copy has the same content and length, and its holes are holes.
func TestCopySparse(t *testing.T) {
	const block = 64 << 10
	for name, data := range map[string][]int64{ // blocks that are written
		"a hole":            nil,
		"data at the start": {0},
		"data at the end":   {99},
		"here and there":    {3, 4, 50, 98},
	} {
		t.Run(name, func(t *testing.T) {
			from, to := filepath.Join(t.TempDir(), "from"), filepath.Join(t.TempDir(), "to")
			file, err := os.Create(from)
			if err != nil {
				t.Fatal(err)
			}
			for _, n := range data {
				if _, err := file.WriteAt(bytes.Repeat([]byte{byte(n + 1)}, block), n*block); err != nil {
					t.Fatal(err)
				}
			}
			if err := file.Truncate(100 * block); err != nil {
				t.Fatal(err)
			}
			file.Close()
			if err := copySparse(t.Context(), to, from, nil, func(int64) {}); err != nil {
				t.Fatal(err)
			}
			want, _ := os.ReadFile(from)
			got, _ := os.ReadFile(to)
			if !bytes.Equal(got, want) {
				t.Error("the copy differs")
			}
			info, err := os.Stat(to)
			if err != nil {
				t.Fatal(err)
			}
			if used := info.Sys().(*syscall.Stat_t).Blocks * 512; used > int64(len(data)+1)*block*2 {
				t.Errorf("%d bytes are used for %d blocks", used, len(data))
			}
			if err := copySparse(t.Context(), to, from, nil, func(int64) {}); err == nil {
				t.Error("a file was overwritten")
			}
		})
	}
}
