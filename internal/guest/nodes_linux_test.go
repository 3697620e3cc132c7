package guest

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// On a real directory, with real nodes.
func TestSetUpNodes(t *testing.T) {
	dir := t.TempDir()
	dev := filepath.Join(dir, "dev")
	list, group := filepath.Join(dir, "modules.devname"), filepath.Join(dir, "group")
	for file, text := range map[string]string{
		list: "# nodes\ntun net/tun c10:200\nloop loop-control c10:237\n", group: "root:x:0:\ndisk:x:6:\n",
	} {
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(dev, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := makeNode(dev, staticNode{"vdz", true, 254, 9}); err != nil {
		t.Skipf("only root may make nodes: %v", err)
	}
	if err := makeNode(dev, staticNode{"rtc0", false, 250, 0}); err != nil {
		t.Fatal(err)
	}
	d := &devices{changed: make(chan struct{})}
	for range 2 { // nodes that are there stay
		if err := d.setUpNodes(dev, list, group); err != nil {
			t.Fatal(err)
		}
	}
	for name, want := range map[string]string{
		"net/tun": "c 10:200 666 0", "loop-control": "c 10:237 660 6", "vdz": "b 254:9 660 6",
	} {
		var st unix.Stat_t
		if err := unix.Stat(filepath.Join(dev, name), &st); err != nil {
			t.Error(err)
			continue
		}
		kind := map[uint32]string{unix.S_IFCHR: "c", unix.S_IFBLK: "b"}[st.Mode&unix.S_IFMT]
		got := fmt.Sprintf("%s %d:%d %o %d", kind, unix.Major(uint64(st.Rdev)), unix.Minor(uint64(st.Rdev)), st.Mode&0o7777, st.Gid)
		if got != want {
			t.Errorf("%s: %s, want %s", name, got, want)
		}
	}
	if to, err := os.Readlink(filepath.Join(dev, "rtc")); to != "rtc0" {
		t.Errorf("rtc leads to %q, %v", to, err)
	}
	// A kernel without modules has no list.
	if err := d.setUpNodes(dev, list+".missing", group); err != nil {
		t.Error(err)
	}
}
