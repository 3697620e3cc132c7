//go:build linux

package guest

import (
	"encoding/pem"
	"os"
	"path/filepath"
	"strings"
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
	if left, _ := filepath.Glob(filepath.Join(dir, "*", "*")); len(left) != 1 || left[0] != own || exists(filepath.Join(dir, "b.test:5000")) {
		t.Errorf("left are %q", left)
	}
	if err := linkRegistries(dir, memory, []guestapi.RegistryFile{{Registry: "../../x", Name: "ca.crt"}}); err == nil {
		t.Error("a registry's name leads out of the directory")
	}
}

// Whether dockerd has read whom to trust decides whether it has to be started again.
func TestWitness(t *testing.T) {
	dir, err := os.MkdirTemp("/dev/shm", "hyve") // a tmpfs, as /run is
	if err != nil {
		t.Skip(err)
	}
	defer os.RemoveAll(dir)
	path := filepath.Join(dir, "cas.pem")
	for _, reads := range []bool{false, true} {
		if err := writeEngineCAs(path, []byte("some")); err != nil {
			t.Fatal(err)
		}
		if reads {
			os.ReadFile(path)
		}
		w, err := openWitness(path)
		if err != nil {
			t.Fatal(err)
		}
		if err := writeEngineCAs(path, []byte("others")); err != nil {
			t.Fatal(err)
		}
		if w.read() != reads {
			t.Errorf("read: %v", reads)
		}
	}
}

func TestCertificatesAlone(t *testing.T) {
	block := func(kind string) string {
		return string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: []byte(kind + ", in DER")}))
	}
	ca := block("CERTIFICATE")
	if got := certificates("words\n" + ca + block("PRIVATE KEY") + strings.Repeat("x", 100)); got != ca {
		t.Errorf("%q", got)
	}
}

func readText(path string) string {
	b, _ := os.ReadFile(path)
	return string(b)
}
