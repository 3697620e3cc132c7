package ext4

import (
	"encoding/binary"
	"testing"
)

// head makes a disk's beginning with a superblock.
func head(change func(sb []byte)) []byte {
	head := make([]byte, 4096)
	sb := head[1024:2048]
	binary.LittleEndian.PutUint16(sb[0x38:], 0xef53)
	binary.LittleEndian.PutUint32(sb[0x18:], 2)    // 4096
	binary.LittleEndian.PutUint32(sb[0x04:], 1000) // blocks
	binary.LittleEndian.PutUint16(sb[0x3a:], 1)    // clean
	copy(sb[0x78:], "hyve-data")
	if change != nil {
		change(sb)
	}
	return head
}

func TestParse(t *testing.T) {
	plain := Superblock{Label: "hyve-data", BlockSize: 4096, Blocks: 1000, Clean: true}
	with := func(change func(*Superblock)) Superblock { e := plain; change(&e); return e }
	for name, test := range map[string]struct {
		head  []byte
		want  Superblock
		ok    bool
		check bool
	}{
		"plain":   {head(nil), plain, true, false},
		"journal": {head(func(sb []byte) { sb[0x60] = 4 }), plain, true, false}, // to be replayed by mounting
		"64 bit": {head(func(sb []byte) { sb[0x60] = 0x80; sb[0x150] = 1 }),
			with(func(e *Superblock) { e.Blocks += 1 << 32 }), true, false},
		"high half without 64 bit": {head(func(sb []byte) { sb[0x150] = 1 }), plain, true, false},
		"errors":                   {head(func(sb []byte) { sb[0x3a] = 3 }), with(func(e *Superblock) { e.Errors = true }), true, true},
		"counted errors":           {head(func(sb []byte) { sb[0x194] = 1 }), with(func(e *Superblock) { e.Errors = true }), true, true},
		"unclean":                  {head(func(sb []byte) { sb[0x3a] = 0 }), with(func(e *Superblock) { e.Clean = false }), true, true},
		"absurd block size":        {head(func(sb []byte) { sb[0x18] = 40 }), Superblock{}, false, false},
		"no magic":                 {make([]byte, 4096), Superblock{}, false, false},
		"short":                    {head(nil)[:2000], Superblock{}, false, false},
	} {
		got, ok := Parse(test.head)
		if ok != test.ok || got != test.want || ok && got.NeedsCheck() != test.check {
			t.Errorf("%s: Parse = %+v, %t; want %+v, %t; check %t", name, got, ok, test.want, test.ok, got.NeedsCheck())
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add(head(nil))
	f.Fuzz(func(t *testing.T, head []byte) {
		if e, ok := Parse(head); ok && (e.Blocks < 0 || e.BlockSize < 1024 || e.BlockSize > 64<<10 || len(e.Label) > 16) {
			t.Errorf("Parse = %+v", e)
		}
	})
}
