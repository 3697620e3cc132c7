//go:build linux

package engine

import (
	"encoding/pem"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

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
