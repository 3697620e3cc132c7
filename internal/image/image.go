// Package image keeps guest images: content-addressed directories below one
// store that all machines share.
//
//	DIR/images/sha256-HEX/   one image; HEX is the SHA-256 of its manifest.json
//	DIR/images/.draft-*      half-made images, with the lock of their maker
//	DIR/default-ARCH         the digest that a machine of that architecture gets
//	DIR/lock                 held while entries come and go
//	DIR/build-KIND.lock      held while an image is being built
//
// An image is never changed once it is there.
package image

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/hyve-vm/hyve/internal/bounded"
	"github.com/hyve-vm/hyve/internal/hint"
)

// Format is the version of the manifest and of what the files mean.
const Format = 1

// Names of an image's files.
const (
	ManifestFile       = "manifest.json"
	KernelFile         = "vmlinux"        // amd64: ELF with a PVH entry; arm64: raw Image
	KernelOriginalFile = "vmlinuz"        // as Debian ships it
	InitrdFile         = "initrd"         // newc cpio
	RootFile           = "root.erofs"     // read-only root
	SBOMFile           = "sbom.spdx.json" // SPDX 2.3
)

// maxManifest bounds a manifest, in bytes.
const maxManifest = 1 << 20

// A Manifest says what an image is. Its bytes determine the image's digest.
type Manifest struct {
	Format int    `json:"format"`
	Arch   string `json:"arch"`   // "amd64", "arm64"
	Kernel string `json:"kernel"` // kernel release, as uname -r says
	Docker string `json:"docker"` // dockerd's Debian version
	// Engine is which of build's engines that is, "stable" or "newest", and EngineSuite
	// the suite that it came from. Images of older versions of hyve do not say.
	Engine      string `json:"engine,omitempty"`
	EngineSuite string `json:"engineSuite,omitempty"`
	Debian      Debian `json:"debian"`
	// Recipe is a hash of all that determines the image besides the packages.
	Recipe string `json:"recipe"`
	// Cmdline is what the image requires on the kernel's command line beyond what
	// every machine has; so far, none requires anything.
	Cmdline string `json:"cmdline,omitempty"`
	Files   []File `json:"files"` // sorted by name; all but the manifest itself
}

// Debian says which state of the archive an image was made from.
type Debian struct {
	Release string    `json:"release"` // code name, "trixie"
	Version string    `json:"version"` // point release, "13.8"
	Date    time.Time `json:"date"`    // of the newest of Suites
	Suites  []Suite   `json:"suites"`
	// NoSecurity says that the security archive was left out, as its maker asked.
	NoSecurity bool `json:"noSecurity,omitempty"`
}

// Suite is one suite that packages came from.
type Suite struct {
	Name string    `json:"name"`
	Date time.Time `json:"date"`
}

// File is one file of an image.
type File struct {
	Name   string `json:"name"`
	Size   int64  `json:"size"`   // bytes
	SHA256 string `json:"sha256"` // lower-case hex
}

// An Image is a committed image.
type Image struct {
	Digest   string // "sha256:" and 64 lower-case hex digits
	Dir      string
	Arch     string
	Created  time.Time // when it was committed here
	Manifest Manifest
}

// Kernel is the path of the kernel to boot: on amd64 an ELF file with a PVH
// entry, on arm64 a raw Image.
func (i *Image) Kernel() string { return filepath.Join(i.Dir, KernelFile) }

// KernelOriginal is the path of the kernel as Debian ships it.
func (i *Image) KernelOriginal() string { return filepath.Join(i.Dir, KernelOriginalFile) }

// Initrd is the path of the initial RAM file system.
func (i *Image) Initrd() string { return filepath.Join(i.Dir, InitrdFile) }

// Root is the path of the read-only root disk.
func (i *Image) Root() string { return filepath.Join(i.Dir, RootFile) }

// Size returns the bytes of all its files together.
func (i *Image) Size() int64 {
	var n int64
	for _, f := range i.Manifest.Files {
		n += f.Size
	}
	return n
}

// file returns the manifest's entry of that name.
func (i *Image) file(name string) (File, bool) {
	for _, f := range i.Manifest.Files {
		if f.Name == name {
			return f, true
		}
	}
	return File{}, false
}

// broken makes the error about an image whose files are not what they were.
func broken(digest string, err error) error {
	return hint.With(fmt.Errorf("image %s is damaged: %w", short(digest), err), "run `hyve image build` to make it anew")
}

// short abbreviates a digest for messages.
func short(digest string) string {
	hex := strings.TrimPrefix(digest, "sha256:")
	return hex[:min(12, len(hex))]
}

// load reads and checks the manifest of the image in dir.
func load(dir string) (*Image, error) {
	digest, ok := digestOf(filepath.Base(dir))
	if !ok {
		return nil, fmt.Errorf("%s is no image", dir)
	}
	file := filepath.Join(dir, ManifestFile)
	st, err := os.Stat(file)
	if err != nil {
		return nil, unreadable(digest, file, err)
	}
	if st.Size() > maxManifest {
		return nil, broken(digest, fmt.Errorf("%s has %d bytes, at most %d", file, st.Size(), maxManifest))
	}
	data, err := bounded.ReadFile(file, maxManifest)
	if err != nil {
		return nil, unreadable(digest, file, err)
	}
	if sum := sha256.Sum256(data); "sha256:"+hex.EncodeToString(sum[:]) != digest {
		return nil, broken(digest, fmt.Errorf("the SHA-256 of %s is not the image's", file))
	}
	img := &Image{Digest: digest, Dir: dir, Created: st.ModTime()}
	if err := json.Unmarshal(data, &img.Manifest); err != nil {
		return nil, broken(digest, fmt.Errorf("reading %s: %w", file, err))
	}
	if img.Manifest.Format != Format {
		return nil, hint.With(
			fmt.Errorf("image %s has format %d, this hyve reads %d", short(digest), img.Manifest.Format, Format),
			"run `hyve image build` for one of this hyve's own",
		)
	}
	img.Arch = img.Manifest.Arch
	for _, f := range img.Manifest.Files {
		if f.Name != filepath.Base(f.Name) || strings.HasPrefix(f.Name, ".") {
			return nil, broken(digest, fmt.Errorf("%s names %q", file, f.Name))
		}
	}
	for _, name := range []string{KernelFile, InitrdFile, RootFile} {
		if _, ok := img.file(name); !ok {
			return nil, broken(digest, fmt.Errorf("%s names no %s", file, name))
		}
	}
	return img, nil
}

// pathless says what is wrong with a file, its path once.
func pathless(err error, file string) error {
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%s is missing", file)
	}
	return err
}

// digestOf returns the digest of the image in a directory of that name.
func digestOf(name string) (digest string, ok bool) {
	digits, ok := strings.CutPrefix(name, "sha256-")
	digest = "sha256:" + digits
	return digest, ok && isDigest(digest)
}

func isDigest(s string) bool {
	h, ok := strings.CutPrefix(s, "sha256:")
	return ok && len(h) == 64 && isHex(h)
}

func isHex(s string) bool {
	for i := 0; i < len(s); i++ {
		if c := s[i]; (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
	}
	return true
}
