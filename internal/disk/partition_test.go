package disk

import (
	"bytes"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// testDisk is a disk of 4 MiB.
type testDisk []byte

func newTestDisk() testDisk { return make(testDisk, 4<<20) }

// ext4 writes a superblock of a file system of that many blocks of 4 KiB.
func (d testDisk) ext4(at int, label string, blocks uint32) testDisk {
	sb := d[at+1024:]
	binary.LittleEndian.PutUint16(sb[0x38:], 0xef53)
	binary.LittleEndian.PutUint32(sb[0x18:], 2)
	binary.LittleEndian.PutUint32(sb[0x04:], blocks)
	copy(sb[0x78:], label)
	return d
}

// mbr writes an entry of the MBR, in sectors.
func (d testDisk) mbr(n int, start, count uint32) testDisk {
	binary.LittleEndian.PutUint32(d[446+16*n+8:], start)
	binary.LittleEndian.PutUint32(d[446+16*n+12:], count)
	copy(d[510:], "\x55\xaa")
	return d
}

// gpt writes a GPT of partitions, each of a first and a last sector.
func (d testDisk) gpt(parts ...[2]uint64) testDisk {
	d.mbr(0, 1, uint32(len(d)/sector-1)) // protective
	entries := d[2*sector : 2*sector+128*128]
	for n, part := range parts {
		binary.LittleEndian.PutUint64(entries[128*n+32:], part[0])
		binary.LittleEndian.PutUint64(entries[128*n+40:], part[1])
	}
	header := d[sector : 2*sector]
	copy(header, "EFI PART")
	binary.LittleEndian.PutUint32(header[12:], 92)
	binary.LittleEndian.PutUint64(header[72:], 2)
	binary.LittleEndian.PutUint32(header[80:], 128)
	binary.LittleEndian.PutUint32(header[84:], 128)
	binary.LittleEndian.PutUint32(header[88:], crc32.ChecksumIEEE(entries))
	binary.LittleEndian.PutUint32(header[16:], crc32.ChecksumIEEE(header[:92]))
	return d
}

func TestFindData(t *testing.T) {
	const mib = 1 << 20
	half := Part{2 * mib, 2 * mib}
	broken := newTestDisk().gpt([2]uint64{4096, 8191}).ext4(2*mib, "boot2docker-data", 512)
	broken[2*sector+40]++
	for name, test := range map[string]struct {
		disk testDisk
		want Part
		err  string
	}{
		"whole disk":            {newTestDisk().ext4(0, "boot2docker-data", 1024), Part{0, 4 * mib}, ""},
		"whole disk, no label":  {newTestDisk().ext4(0, "", 1024), Part{0, 4 * mib}, ""},
		"MBR":                   {newTestDisk().mbr(1, 64, 64).mbr(0, 4096, 4096).ext4(2*mib, "boot2docker-data", 512), half, ""},
		"GPT":                   {newTestDisk().gpt([2]uint64{4096, 8191}, [2]uint64{100, 200}).ext4(2*mib, "boot2docker-data", 512), half, ""},
		"hyve's":                {newTestDisk().gpt([2]uint64{4096, 8191}).ext4(2*mib, "hyve-data", 512), half, ""},
		"another label":         {newTestDisk().gpt([2]uint64{4096, 8191}).ext4(2*mib, "system", 512), Part{}, "label boot2docker-data"},
		"blank":                 {newTestDisk(), Part{}, "no ext4 file system"},
		"tiny":                  {make(testDisk, 700), Part{}, "no ext4 file system"},
		"GPT damaged":           {broken, Part{}, "partition table is damaged"},
		"partition beyond disk": {newTestDisk().mbr(0, 4096, 4097).ext4(2*mib, "boot2docker-data", 512), Part{}, "no ext4"},
		"too large for it":      {newTestDisk().mbr(0, 4096, 4096).ext4(2*mib, "boot2docker-data", 513), Part{}, "cut short"},
		"too large for disk":    {newTestDisk().ext4(0, "boot2docker-data", 1025), Part{}, "cut short"},
	} {
		got, err := FindData(bytes.NewReader(test.disk), int64(len(test.disk)))
		switch {
		case test.err != "":
			if err == nil || !strings.Contains(err.Error(), test.err) {
				t.Errorf("%s: got %+v, %v, want %s", name, got, err, test.err)
			}
		case err != nil || got != test.want:
			t.Errorf("%s: got %+v, %v, want %+v", name, got, err, test.want)
		}
	}
	if _, err := FindData(bytes.NewReader(newTestDisk()), 4<<20); !errors.Is(err, ErrNoData) {
		t.Errorf("blank: %v", err)
	}
}

func FuzzFindData(f *testing.F) {
	f.Add([]byte(newTestDisk().mbr(0, 8, 32).ext4(4096, "boot2docker-data", 4)[:24<<10]))
	f.Add([]byte(newTestDisk().gpt([2]uint64{36, 40})[:24<<10]))
	f.Add([]byte(newTestDisk().ext4(0, "", 6)[:24<<10]))
	f.Fuzz(func(t *testing.T, data []byte) {
		size := int64(len(data))
		if part, err := FindData(bytes.NewReader(data), size); err == nil && (part.Start < 0 || part.Size <= 0 || part.Size > size-part.Start) {
			t.Errorf("%+v of %d bytes", part, size)
		}
	})
}

// A part becomes the beginning of a larger disk, its holes holes.
func TestCopyPart(t *testing.T) {
	from, to := filepath.Join(t.TempDir(), "from"), filepath.Join(t.TempDir(), "to")
	if err := os.WriteFile(from, bytes.Repeat([]byte("0123456789abcdef"), 1<<12), 0o600); err != nil {
		t.Fatal(err)
	}
	var sum int64
	if err := CopyPart(t.Context(), to, 1<<20, from, Part{4100, 8200}, func(n int64) { sum += n }); err != nil {
		t.Fatal(err)
	}
	whole, _ := os.ReadFile(from)
	got, _ := os.ReadFile(to)
	if want := append(bytes.Clone(whole[4100:12300]), make([]byte, 1<<20-8200)...); !bytes.Equal(got, want) || sum != 8200 {
		t.Errorf("the copy differs, or is not of %d bytes", sum)
	}
	if err := CopyPart(t.Context(), to, 1<<20, from, Part{4100, 8200}, func(int64) {}); err == nil {
		t.Error("a file was overwritten")
	}
	if got, _ := os.ReadFile(to); len(got) != 1<<20 {
		t.Error("and removed")
	}
}
