package datadisk

import (
	"os"
	"path/filepath"
	"testing"
)

func FuzzDescribeContent(f *testing.F) {
	f.Add([]byte("XFSB"))
	f.Fuzz(func(t *testing.T, head []byte) {
		if what := describeContent(head); what == "" {
			t.Error("no word")
		}
	})
}

func TestContent(t *testing.T) {
	at := func(offset int, what string) []byte {
		head := make([]byte, headSize)
		copy(head[offset:], what)
		return head
	}
	for _, test := range []struct {
		head  []byte
		blank bool
		asked bool
		name  string
	}{
		{make([]byte, headSize), true, false, ""},
		{make([]byte, 13), true, false, ""},
		{at(0, boot2dockerMagic), false, true, ""},
		{at(headSize-1, "x"), false, false, `unknown data, beginning at byte 1048575 with "x"`},
		{at(0, "XFSB"), false, false, "an XFS file system"},
		{at(0x10040, "_BHRfS_M"), false, false, "a btrfs file system"},
		{at(510, "\x55\xaa"), false, false, "an MBR partition table"},
		{append(at(512, "EFI PART")[:headSize:headSize], 0), false, false, "a GPT partition table"},
		{at(4086, "SWAPSPACE2"), false, false, "swap space"},
	} {
		blank, asked := mayFormat(test.head)
		if blank != test.blank || asked != test.asked {
			t.Errorf("%s: mayFormat = %t, %t", test.name, blank, asked)
		}
		if !blank && !asked && describeContent(test.head) != test.name {
			t.Errorf("describeContent = %q, want %q", describeContent(test.head), test.name)
		}
	}
}

func TestRemovedDriver(t *testing.T) {
	root := t.TempDir()
	for _, dir := range []string{"overlay2/0123", "aufs/layers", "image/devicemapper"} {
		if err := os.MkdirAll(filepath.Join(root, dir), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if driver := RemovedDriver(root); driver != "" {
		t.Errorf("without layers there is %q", driver)
	}
	if err := os.WriteFile(filepath.Join(root, "aufs", "layers", "0123"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if driver := RemovedDriver(root); driver != "aufs" {
		t.Errorf("with layers of aufs there is %q", driver)
	}
}
