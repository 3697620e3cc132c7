//go:build linux

package guest

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/hyve-vm/hyve/internal/guestapi"
)

func TestResolvConf(t *testing.T) {
	s := guestapi.Surroundings{Search: []string{"corp.test", "bad\nnameserver 6.6.6.6", "b.test"}, ResolverOptions: []string{"ndots:2", "rotate", "timeout:1\nx"}}
	if text := resolvConf("192.168.127.1", s); text != "nameserver 192.168.127.1\nsearch corp.test b.test\noptions ndots:2\n" {
		t.Errorf("%q", text)
	}
	if text := resolvConf("1.2.3.4", guestapi.Surroundings{}); text != "nameserver 1.2.3.4\n" {
		t.Errorf("%q", text)
	}
}

// A container that has mounted the zone's file follows; a link's target is left alone.
func TestZoneIsFollowed(t *testing.T) {
	dir := t.TempDir()
	target := filepath.Join(dir, "target")
	os.WriteFile(target, []byte("its own"), 0o644)
	os.Symlink(target, filepath.Join(dir, "localtime"))
	local := filepath.Join(dir, "localtime")
	if err := applyZone(dir, nil); err != nil {
		t.Fatal(err)
	}
	if readText(target) != "its own" || readText(filepath.Join(dir, "timezone")) != "Etc/UTC\n" {
		t.Error("the link's target was written, or the name was not")
	}
	if l, err := time.LoadLocationFromTZData("x", []byte(readText(local))); err != nil || time.Unix(0, 0).In(l).Format("15 MST") != "00 UTC" {
		t.Errorf("no zone: %v, %v", l, err)
	}
	mounted, err := os.Open(local)
	if err != nil {
		t.Fatal(err)
	}
	defer mounted.Close()
	data := append(utcFile(), "longer"...)
	if err := applyZone(dir, &guestapi.Zone{Name: "Europe/Berlin", Data: data}); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 2*len(data))
	if n, _ := mounted.ReadAt(b, 0); string(b[:n]) != string(data) || readText(filepath.Join(dir, "timezone")) != "Europe/Berlin\n" {
		t.Errorf("who has the file sees %q", b[:n])
	}
	if err := applyZone(dir, &guestapi.Zone{Name: "x", Data: []byte("root:x:0:0")}); err == nil || readText(local) != string(data) {
		t.Errorf("what is no zone: %v", err)
	}
}

func readText(path string) string {
	b, _ := os.ReadFile(path)
	return string(b)
}
