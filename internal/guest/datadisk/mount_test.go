//go:build linux

package datadisk

import (
	"slices"
	"testing"
)

func TestMountTargets(t *testing.T) {
	info := "22 1 0:20 / / rw shared:1 - overlay overlay rw\n" +
		`30 22 254:16 / /mnt/data rw - ext4 /dev/vdb rw` + "\n" +
		`31 30 254:16 /x /var/lib/a\040b\134 rw - ext4 /dev/vdb rw` + "\nshort\n"
	if got := mountTargets(info); !slices.Equal(got, []string{"/", "/mnt/data", `/var/lib/a b\`}) {
		t.Errorf("mountTargets = %q", got)
	}
}
