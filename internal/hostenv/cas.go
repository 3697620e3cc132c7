package hostenv

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"iter"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/crypto/x509roots/fallback/bundle"

	"github.com/hyve-vm/hyve/internal/bounded"
	"github.com/hyve-vm/hyve/internal/guestapi"
)

// Bounds of what is read to find CAs.
const (
	maxBundle = 4 << 20 // bytes of a file; a whole store of certificates is 250 KB
	maxCAFile = 1000    // files of a directory
)

// common are the digests of the CAs that everybody trusts, those of Mozilla's programme,
// which the image has.
var common = sync.OnceValue(func() map[[sha256.Size]byte]bool {
	known := map[[sha256.Size]byte]bool{}
	for root := range bundle.Roots() {
		known[sha256.Sum256(root.Certificate)] = true
	}
	return known
})

// A collector gathers CAs that are not common, each once.
type collector struct {
	seen map[[sha256.Size]byte]bool
	pem  strings.Builder
	left int // that there was no room for
	now  time.Time
}

// cas returns, in PEM, the CAs that programs of the host trust and an image may not. Those
// that came with the host's distribution are not among them: one that Mozilla distrusts by
// now would come back to the guest from each host that is not up to date.
func (h *Host) cas() (string, error) {
	c := &collector{seen: map[[sha256.Size]byte]bool{}, now: time.Now()}
	c.passOver(h.Shipped)
	for _, path := range h.Bundles {
		if text, err := bounded.ReadFile(path, maxBundle); err == nil {
			c.add(text)
			break
		}
	}
	for _, dir := range h.CADirs {
		for _, path := range h.caFiles(dir) {
			if text, err := bounded.ReadFile(path, maxBundle); err == nil {
				c.add(text)
			}
		}
	}
	c.add(keychainCAs(h))
	if c.left > 0 {
		return c.pem.String(), fmt.Errorf("%d of the CAs that the host trusts are left out: %d bytes are room for the others alone", c.left, guestapi.MaxCAs)
	}
	return c.pem.String(), nil
}

// passOver has the certificates of those files be none to add.
func (c *collector) passOver(patterns []string) {
	for _, pattern := range patterns {
		paths, _ := filepath.Glob(pattern)
		for _, path := range paths[:min(len(paths), maxCAFile)] {
			text, _ := bounded.ReadFile(path, maxBundle)
			for der := range certificates(text) {
				c.seen[sha256.Sum256(der)] = true
			}
		}
	}
}

// caFiles are the files of a directory that may have CAs. Links inside of it are names of the
// same, and shipped files have been read.
func (h *Host) caFiles(dir string) (paths []string) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil
	}
	for _, e := range entries[:min(len(entries), maxCAFile)] {
		path := filepath.Join(dir, e.Name())
		if target, err := os.Readlink(path); err == nil && (!strings.Contains(target, "/") || matchesAny(h.Shipped, target)) {
			continue
		}
		paths = append(paths, path)
	}
	return paths
}

func matchesAny(patterns []string, path string) bool {
	return slices.ContainsFunc(patterns, func(pattern string) bool {
		ok, _ := filepath.Match(pattern, path)
		return ok
	})
}

// certificates returns what is in the certificates of a text in PEM; what else is in it is
// nothing.
func certificates(text []byte) iter.Seq[[]byte] {
	return func(yield func(der []byte) bool) {
		for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
			if block.Type == "CERTIFICATE" && !yield(block.Bytes) {
				return
			}
		}
	}
}

// add adds the certificates in a text in PEM.
func (c *collector) add(text []byte) {
	for der := range certificates(text) {
		digest := sha256.Sum256(der)
		if c.seen[digest] || common()[digest] {
			continue
		}
		c.seen[digest] = true
		cert, err := x509.ParseCertificate(der)
		if err != nil || c.now.After(cert.NotAfter) {
			continue
		}
		one := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
		if c.pem.Len()+len(one) > guestapi.MaxCAs {
			c.left++
			continue
		}
		c.pem.Write(one)
	}
}

// registries returns the certificates and keys for registries, as docker's certs.d(5).
func (h *Host) registries() ([]guestapi.RegistryFile, error) {
	found := map[string]guestapi.RegistryFile{}
	var left int
	for _, dir := range h.CertsD {
		registries, _ := os.ReadDir(dir)
		for _, registry := range registries {
			files, _ := os.ReadDir(filepath.Join(dir, registry.Name()))
			for _, file := range files {
				f := guestapi.RegistryFile{Registry: registry.Name(), Name: file.Name()}
				if f.Check() != nil { // docker reads no others either
					continue
				}
				var err error
				f.Data, err = bounded.ReadFile(filepath.Join(dir, f.Registry, f.Name), guestapi.MaxRegistryFile)
				if err != nil {
					left++
					continue
				}
				found[f.Registry+"/"+f.Name] = f
			}
		}
	}
	var all []guestapi.RegistryFile
	size := 0
	for _, key := range slices.Sorted(maps.Keys(found)) {
		f := found[key]
		if size+len(f.Data) > guestapi.MaxRegistries || len(all) >= guestapi.MaxRegistryFiles {
			left++
			continue
		}
		size += len(f.Data)
		all = append(all, f)
	}
	all, halves := paired(all)
	if left += halves; left > 0 {
		return all, fmt.Errorf("%d certificates of registries are left out: unreadable, without their key or certificate, or more than %d files and %d bytes in all",
			left, guestapi.MaxRegistryFiles, guestapi.MaxRegistries)
	}
	return all, nil
}

// paired leaves out clients' certificates without their key, and keys without certificate,
// and counts them: for one of them dockerd refuses every pull from that registry. On the
// host dockerd may read a key that is root's.
func paired(all []guestapi.RegistryFile) (whole []guestapi.RegistryFile, halves int) {
	other := map[string]string{".cert": ".key", ".key": ".cert"}
	there := map[string]bool{}
	for _, f := range all {
		there[f.Registry+"/"+f.Name] = true
	}
	for _, f := range all {
		end := filepath.Ext(f.Name)
		if other[end] != "" && !there[f.Registry+"/"+strings.TrimSuffix(f.Name, end)+other[end]] {
			halves++
			continue
		}
		whole = append(whole, f)
	}
	return whole, halves
}
