package private

import (
	"errors"
	"net"
	"os"
	"path/filepath"
	"testing"
)

func TestTree(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("makes directories of other users")
	}
	base := t.TempDir()
	mk := func(name string, uid int, mode os.FileMode) string {
		path := filepath.Join(base, name)
		if err := errors.Join(os.MkdirAll(path, 0o755), os.Chown(path, uid, 0), os.Chmod(path, mode)); err != nil {
			t.Fatal(err)
		}
		return path
	}
	link := func(target, name string, uid int) string {
		path := filepath.Join(base, name)
		if err := errors.Join(os.Symlink(target, path), os.Lchown(path, uid, 0)); err != nil {
			t.Fatal(err)
		}
		return path
	}
	good := mk("good", 0, 0o700)
	mk("sticky", 0, os.ModeSticky|0o777)
	mk("theirs/in", 0, 0o700)
	mk("theirs", 1234, 0o755)
	mk("open/in", 0, 0o700)
	mk("open", 0, 0o777)
	for path, ok := range map[string]bool{
		good:                                   true,
		filepath.Join(good, "new"):             true,
		mk("readable", 0, 0o755):               true,
		mk("all", 0, 0o777):                    false,
		mk("group", 0, 0o770):                  false,
		mk("sticky/mine", 0, 0o700):            true,
		mk("sticky/theirs", 99, 0o700):         false,
		mk("sticky", 0, os.ModeSticky|0o777):   false,
		mk("others", 1234, 0o700):              false,
		filepath.Join(base, "theirs/in"):       false,
		filepath.Join(base, "open/in"):         false,
		link(good, "link", 0):                  true,
		link("good", "relative", 0):            true,
		link("theirs/in", "into", 0):           false,
		link("/nowhere/at/all", "dangling", 0): true,
		link("loop", "loop", 0):                false,
		link(good, "sticky/link", 1234):        false,
		link(good, "open/link", 0):             false,
	} {
		if err := Tree(path); (err == nil) != ok {
			t.Errorf("%s: %v", path, err)
		}
	}
}

func TestDial(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "run")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	socket := filepath.Join(dir, "s")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	try := func(what, socket string, want bool) {
		t.Helper()
		conn, err := Dial(t.Context(), socket)
		if (err == nil) != want {
			t.Errorf("%s: %v", what, err)
		}
		if err == nil {
			conn.Close()
		}
	}
	chmod := func(path string, mode os.FileMode) {
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
	}
	try("an open socket", socket, false)
	chmod(socket, 0o600)
	try("a private one", socket, true)
	chmod(dir, 0o755)
	try("in an open directory", socket, false)
	chmod(dir, 0o700)
	if err := os.Symlink(socket, filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	try("a link", filepath.Join(dir, "link"), false)
	try("nothing", filepath.Join(dir, "none"), false)
	if os.Geteuid() != 0 {
		return
	}
	if err := os.Chown(socket, 1234, 0); err != nil {
		t.Fatal(err)
	}
	try("another user's", socket, false)
	if err := errors.Join(os.Chown(socket, 0, 0), os.Chown(dir, 1234, 0)); err != nil {
		t.Fatal(err)
	}
	try("in another user's directory", socket, false)
}
