//go:build linux

package engine

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/hyve-vm/hyve/internal/guestapi"
)

func TestRegistriesAreLinked(t *testing.T) {
	dir, memory := t.TempDir(), filepath.Join(t.TempDir(), "certs.d")
	own := filepath.Join(dir, "a.test", "ca.crt")
	os.MkdirAll(filepath.Dir(own), 0o755)
	os.WriteFile(own, []byte("own"), 0o644)
	files := []guestapi.RegistryFile{{Registry: "a.test", Name: "ca.crt", Data: []byte("host's")}, {Registry: "b.test:5000", Name: "client.key", Data: []byte("key")}}
	for range 2 {
		if err := linkRegistries(dir, memory, files); err != nil {
			t.Fatal(err)
		}
	}
	key := filepath.Join(dir, "b.test:5000", "hyve-host-client.key")
	if readText(own) != "own" || readText(filepath.Join(dir, "a.test", "hyve-host-ca.crt")) != "host's" || readText(key) != "key" {
		t.Error("not all are there")
	}
	if info, err := os.Stat(key); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the key: %v, %v", info, err)
	}
	if err := linkRegistries(dir, memory, nil); err != nil {
		t.Fatal(err)
	}
	if left, _ := filepath.Glob(filepath.Join(dir, "*", "*")); len(left) != 1 || left[0] != own {
		t.Errorf("left are %q", left)
	}
	if _, err := os.Lstat(filepath.Join(dir, "b.test:5000")); err == nil {
		t.Error("a registry's directory stays, though nothing is in it")
	}
	if err := linkRegistries(dir, memory, []guestapi.RegistryFile{{Registry: "../../x", Name: "ca.crt"}}); err == nil {
		t.Error("a registry's name leads out of the directory")
	}
}

func readText(path string) string {
	b, _ := os.ReadFile(path)
	return string(b)
}
