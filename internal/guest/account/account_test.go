//go:build linux

package account

import (
	"os"
	"path/filepath"
	"testing"
)

func TestLookup(t *testing.T) {
	dir := t.TempDir()
	passwd, group := filepath.Join(dir, "passwd"), filepath.Join(dir, "group")
	os.WriteFile(passwd, []byte("root:x:0:0:root:/root:/bin/bash\nbroken\ndocker:x:1000:50:d:/home/docker:/bin/bash\nlast:x:9:9::/:\n"), 0o600)
	os.WriteFile(group, []byte("staff:x:50:\nsudo:x:27:a,docker\ndocker:x:101:docker\nother:x:7:dockers\n"), 0o600)
	a, err := Lookup("docker", passwd, group)
	if err != nil || a.UID != 1000 || a.GID != 50 || a.Home != "/home/docker" || a.Shell != "/bin/bash" ||
		len(a.Groups) != 3 || a.Groups[0] != 50 || a.Groups[1] != 27 || a.Groups[2] != 101 {
		t.Errorf("%+v, %v", a, err)
	}
	if a, err := Lookup("last", passwd, group); err != nil || a.Shell != "/bin/sh" {
		t.Errorf("%+v, %v", a, err)
	}
	if _, err := Lookup("nobody", passwd, group); err == nil {
		t.Error("an account that is not there")
	}
}
