package engine

import (
	"bytes"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/hyve-vm/hyve/internal/guest/wholefile"
	"github.com/hyve-vm/hyve/internal/guestapi"
)

// Where the certificates are that programs of the guest trust.
const (
	caBundle       = "/etc/ssl/certs/ca-certificates.crt"
	persistentCAs  = "/var/lib/boot2docker/certs"
	caBundleMarker = "# Certificates of this machine:\n"
)

// trustCAs puts the certificates that the host trusts, and those that the user left on the
// data disk, behind those of the image, and returns the bundle's machine part.
func (e *Engine) trustCAs(host string) (string, error) {
	b, err := os.ReadFile(caBundle)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return "", fmt.Errorf("reading the trusted certificates: %w", err)
	}
	image, _, _ := bytes.Cut(b, []byte(caBundleMarker))
	var own strings.Builder
	own.WriteString(certificates(host))
	for _, pattern := range []string{"*.pem", "*.crt"} {
		paths, _ := filepath.Glob(filepath.Join(persistentCAs, pattern))
		for _, path := range paths {
			pem, err := os.ReadFile(path)
			if err != nil {
				return "", fmt.Errorf("reading a trusted certificate: %w", err)
			}
			own.WriteString(strings.TrimSpace(string(pem)) + "\n")
		}
	}
	whole := image
	if own.Len() > 0 {
		whole = []byte(string(image) + caBundleMarker + own.String())
	}
	changed, err := wholefile.Replace(caBundle, whole, 0o644)
	if _, missing := os.Lstat(e.cas()); err == nil && (changed || missing != nil) {
		err = writeEngineCAs(e.cas(), whole)
	}
	return own.String(), err
}

// unread is the time of access of a file that nobody has read yet.
var unread = time.Unix(1, 0)

// writeEngineCAs puts the trusted certificates where dockerd looks. It does not read what
// was there, which would count.
func writeEngineCAs(path string, bundle []byte) error {
	draft := path + ".new"
	err := os.MkdirAll(filepath.Dir(path), 0o700)
	if err == nil {
		err = os.WriteFile(draft, bundle, 0o644)
	}
	if err == nil {
		err = os.Chtimes(draft, unread, time.Now())
	}
	if err == nil {
		err = os.Rename(draft, path)
	}
	if err != nil {
		return fmt.Errorf("writing %s: %w", path, err)
	}
	return nil
}

// A witness tells whether a file was read, also when another has taken its place since.
type witness struct{ f *os.File }

func openWitness(path string) (witness, error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	return witness{f}, err
}

// read closes the witness and tells whether somebody has read the file.
func (w witness) read() bool {
	if w.f == nil {
		return false
	}
	defer w.f.Close()
	var st unix.Stat_t
	return unix.Fstat(int(w.f.Fd()), &st) != nil || st.Atim.Sec != unread.Unix()
}

// certificates are those in a text in PEM, and nothing else that is in it.
func certificates(text string) string {
	var kept strings.Builder
	rest := []byte(text[:min(len(text), guestapi.MaxCAs)])
	for {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			return kept.String()
		}
		if block.Type == "CERTIFICATE" {
			kept.Write(pem.EncodeToMemory(&pem.Block{Type: block.Type, Bytes: block.Bytes}))
		}
	}
}
