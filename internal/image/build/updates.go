package build

import (
	"context"
	"encoding/json"
	"fmt"
	"net/url"
	"path/filepath"
	"strings"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp"

	"github.com/hyve-vm/hyve/internal/bounded"
	"github.com/hyve-vm/hyve/internal/image"
	"github.com/hyve-vm/hyve/internal/image/debian"
)

// An Update is a package of an image for which the security archive has a newer one.
type Update struct {
	Package  string
	Has, Fix string // versions
}

// A Check says where to look for security updates.
type Check struct {
	CacheDir string // Build's
	Mirror   string // as Options has it

	// For tests, as Options has them.
	Keys openpgp.EntityList
	Now  func() time.Time
}

// maxSBOM bounds a bill of materials, in bytes.
const maxSBOM = 16 << 20

// Updates returns the security updates that the archive has today for the packages of an
// image. It asks the archive, and takes as long as ctx grants.
func (c Check) Updates(ctx context.Context, img *image.Image) ([]Update, error) {
	sources, err := mirrors(c.Mirror, "/etc/apt")
	if err != nil {
		return nil, err
	}
	archive, err := debian.Open(ctx, debian.Options{
		Releases: EngineOf(img).releases(), Arch: img.Arch, Mirrors: sources, CacheDir: c.CacheDir,
		SecurityOnly: true, Keys: c.Keys, Now: c.Now, Limits: debian.Limits{Tries: 1},
	})
	if err != nil {
		return nil, err
	}
	defer archive.Close()
	packages, err := packagesOf(img)
	if err != nil {
		return nil, err
	}
	var updates []Update
	for _, p := range packages {
		fix := archive.Index.Newest(p.Name, p.Release)
		if fix != nil && debian.CompareVersions(fix.Version, p.Version) > 0 {
			updates = append(updates, Update{p.Name, p.Version, fix.Version})
		}
	}
	return updates, nil
}

// packagesOf reads names, versions and releases of Debian's packages in an image from its
// bill of materials.
func packagesOf(img *image.Image) ([]debian.Package, error) {
	file := filepath.Join(img.Dir, image.SBOMFile)
	data, err := bounded.ReadFile(file, maxSBOM)
	if err != nil {
		return nil, fmt.Errorf("reading the image's bill of materials: %w", err)
	}
	var doc spdxDocument
	if err := json.Unmarshal(data, &doc); err != nil {
		return nil, fmt.Errorf("reading %s: %w", file, err)
	}
	var packages []debian.Package
	for _, p := range doc.Packages {
		for _, ref := range p.ExternalRefs {
			_, query, ok := strings.Cut(ref.Locator, "?")
			if values, err := url.ParseQuery(query); ok && err == nil && strings.HasPrefix(ref.Locator, "pkg:deb/debian/") {
				packages = append(packages, debian.Package{Name: p.Name, Version: p.VersionInfo, Release: values.Get("distro")})
			}
		}
	}
	return packages, nil
}
