package build

import (
	"bytes"
	"crypto/sha256"
	"debug/buildinfo"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"runtime/debug"
	"strings"
	"time"

	"github.com/hyve-vm/hyve/internal/image/debian"
)

// The parts of SPDX 2.3's JSON form that a bill of materials of packages needs
// (https://spdx.github.io/spdx-spec/v2.3/).
type spdxDocument struct {
	SPDXVersion       string             `json:"spdxVersion"`
	DataLicense       string             `json:"dataLicense"`
	SPDXID            string             `json:"SPDXID"`
	Name              string             `json:"name"`
	DocumentNamespace string             `json:"documentNamespace"`
	CreationInfo      spdxCreation       `json:"creationInfo"`
	DocumentDescribes []string           `json:"documentDescribes"`
	Packages          []spdxPackage      `json:"packages"`
	Relationships     []spdxRelationship `json:"relationships"`
}

type spdxCreation struct {
	Created  string   `json:"created"`
	Creators []string `json:"creators"`
}

type spdxPackage struct {
	Name             string         `json:"name"`
	SPDXID           string         `json:"SPDXID"`
	VersionInfo      string         `json:"versionInfo"`
	Supplier         string         `json:"supplier,omitempty"`
	DownloadLocation string         `json:"downloadLocation"`
	FilesAnalyzed    bool           `json:"filesAnalyzed"`
	Checksums        []spdxChecksum `json:"checksums,omitempty"`
	SourceInfo       string         `json:"sourceInfo,omitempty"`
	LicenseConcluded string         `json:"licenseConcluded"`
	LicenseDeclared  string         `json:"licenseDeclared"`
	CopyrightText    string         `json:"copyrightText"`
	ExternalRefs     []spdxRef      `json:"externalRefs,omitempty"`
}

type spdxChecksum struct {
	Algorithm string `json:"algorithm"`
	Value     string `json:"checksumValue"`
}

type spdxRef struct {
	Category string `json:"referenceCategory"`
	Type     string `json:"referenceType"`
	Locator  string `json:"referenceLocator"`
}

type spdxRelationship struct {
	Element string `json:"spdxElementId"`
	Type    string `json:"relationshipType"`
	Related string `json:"relatedSpdxElement"`
}

const noAssertion = "NOASSERTION"

// sbom returns the image's bill of materials. Licences are not asserted: their
// texts are in the image, in usr/share/doc/PACKAGE/copyright; those of what is
// linked into hyve-init in usr/share/doc/hyve-init/copyright.
func sbom(arch string, packages []*debian.Package, init []byte, date time.Time) ([]byte, error) {
	const root = "SPDXRef-image"
	doc := spdxDocument{
		SPDXVersion: "SPDX-2.3", DataLicense: "CC0-1.0", SPDXID: "SPDXRef-DOCUMENT",
		Name: "hyve guest image for " + arch,
		CreationInfo: spdxCreation{
			Created: date.UTC().Format(time.RFC3339), Creators: []string{"Tool: hyve"},
		},
		DocumentDescribes: []string{root},
	}
	add := func(p spdxPackage) {
		p.LicenseConcluded, p.LicenseDeclared, p.CopyrightText = noAssertion, noAssertion, noAssertion
		if p.SPDXID != root {
			doc.Relationships = append(doc.Relationships, spdxRelationship{root, "CONTAINS", p.SPDXID})
		}
		doc.Packages = append(doc.Packages, p)
	}
	add(spdxPackage{Name: "hyve-guest-image", SPDXID: root, VersionInfo: date.UTC().Format("20060102"), DownloadLocation: noAssertion})
	sum := sha256.Sum256(init)
	const own = "SPDXRef-hyve-init"
	add(spdxPackage{
		Name: "hyve-init", SPDXID: own, VersionInfo: hex.EncodeToString(sum[:6]),
		DownloadLocation: noAssertion, Checksums: []spdxChecksum{{"SHA256", hex.EncodeToString(sum[:])}},
	})
	modules, err := linked(init)
	if err != nil {
		return nil, err
	}
	for _, m := range modules {
		id := "SPDXRef-go-" + spdxID(m.Path)
		add(spdxPackage{
			Name: m.Path, SPDXID: id, VersionInfo: m.Version, DownloadLocation: noAssertion, SourceInfo: "linked into hyve-init",
			ExternalRefs: []spdxRef{{"PACKAGE-MANAGER", "purl", "pkg:golang/" + m.Path + "@" + purl(m.Version)}},
		})
		doc.Relationships = append(doc.Relationships, spdxRelationship{own, "STATIC_LINK", id})
	}
	h := sha256.New()
	for _, p := range packages {
		fmt.Fprintf(h, "%s %s\n", p.Name, p.Digest.SHA256)
		add(spdxPackage{
			Name: p.Name, SPDXID: "SPDXRef-deb-" + spdxID(p.Name), VersionInfo: p.Version,
			Supplier:         "Organization: Debian",
			DownloadLocation: downloadLocation(p),
			Checksums:        []spdxChecksum{{"SHA256", p.Digest.SHA256}},
			SourceInfo:       "of the suite " + p.Suite + ", built from the source package " + p.Source,
			ExternalRefs: []spdxRef{{
				"PACKAGE-MANAGER", "purl",
				fmt.Sprintf("pkg:deb/debian/%s@%s?arch=%s&distro=%s", purl(p.Name), purl(p.Version), p.Arch, p.Release),
			}},
		})
	}
	doc.DocumentNamespace = fmt.Sprintf("https://hyve.invalid/spdx/%s/%x-%x", arch, h.Sum(nil)[:16], sum[:8])
	data, err := json.MarshalIndent(doc, "", " ")
	if err != nil {
		return nil, fmt.Errorf("encoding the bill of materials: %w", err)
	}
	return append(data, '\n'), nil
}

// downloadLocation returns where Debian itself has a package, for as long as it does.
func downloadLocation(p *debian.Package) string {
	base := debian.DefaultMirror().Archive
	if strings.HasSuffix(p.Suite, "-security") {
		base = debian.DefaultMirror().Security
	}
	return base + "/" + p.Filename
}

// linked returns what Go's linker says that a program consists of, the standard
// library first.
func linked(program []byte) ([]*debug.Module, error) {
	info, err := buildinfo.Read(bytes.NewReader(program))
	if err != nil {
		return nil, fmt.Errorf("reading what hyve-init consists of: %w", err)
	}
	return append([]*debug.Module{{Path: "stdlib", Version: strings.TrimPrefix(info.GoVersion, "go")}}, info.Deps...), nil
}

// spdxID replaces what an SPDX identifier may not contain; names differ in these
// never alone.
func spdxID(name string) string {
	return strings.NewReplacer("+", "-plus", "_", "-", "/", "-").Replace(name)
}

// purl escapes a package URL's part.
func purl(s string) string {
	return strings.NewReplacer("%", "%25", "+", "%2B", ":", "%3A", "~", "~").Replace(s)
}
