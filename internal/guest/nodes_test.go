package guest

import (
	"fmt"
	"slices"
	"testing"
)

func TestStaticNodes(t *testing.T) {
	got := parseStaticNodes("# Device nodes to trigger on-demand module loading.\ntun net/tun c10:200\nloop loop0 b7:0\n" +
		"up ../sda b8:0\nabsolute /etc/x c1:1\nodd x d1:1\nodd x c1\nodd x c-1:1\nodd x c4096:0\nodd a/../../x c1:1\n\n")
	want := []staticNode{{"net/tun", false, 10, 200}, {"loop0", true, 7, 0}}
	if !slices.Equal(got, want) {
		t.Errorf("got %v", got)
	}
}

func FuzzStaticNodes(f *testing.F) {
	f.Add("tun net/tun c10:200\n")
	f.Fuzz(func(t *testing.T, text string) {
		for _, n := range parseStaticNodes(text) {
			if n.name == "" || n.name[0] == '/' || n.major >= 1<<12 || n.minor >= 1<<20 {
				t.Errorf("%v", n)
			}
		}
	})
}

// The values are those of systemd's 50-udev-default.rules.
func TestNodeRules(t *testing.T) {
	for name, want := range map[string]string{
		"fuse": "666 root", "net/tun": "666 root", "kvm": "666 kvm", "vhost-net": "660 kvm", "vhost-vsock": "660 kvm",
		"loop-control": "660 disk", "tty": "666 tty", "ptmx": "666 tty", "tty0": "620 tty", "tty63": "620 tty", "ttyS0": "660 dialout", "ttyAMA0": "660 dialout",
		"hvc0": "620 tty", "vcsa1": "660 tty", "mem": "640 kmem", "input/event0": "660 input", "sr0": "660 cdrom", "sg1": "660 disk",
		"vport0p1": "", "uinput": "", "mapper/control": "", "hwrng": "", "null": "",
	} {
		r, ok := ruleOf(name, false)
		got := ""
		if ok {
			got = fmt.Sprintf("%o %s", r.mode, r.group)
		}
		if got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
	if r, ok := ruleOf("vda", true); !ok || r.mode != 0o660 || r.group != "disk" {
		t.Errorf("vda: %v %v", r, ok)
	}
}
