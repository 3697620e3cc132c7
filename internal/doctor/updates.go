package doctor

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/hyve-vm/hyve/internal/hint"
	"github.com/hyve-vm/hyve/internal/image"
	"github.com/hyve-vm/hyve/internal/image/build"
	"github.com/hyve-vm/hyve/internal/machine"
)

// UpdatesBound is how long the archive may take to say which security updates it has,
// for all images together.
const UpdatesBound = 5 * time.Second

// Lacking returns the packages of an image of which the archive has a security update, none
// as an empty list. The error says why the archive could not be asked.
func Lacking(ctx context.Context, home machine.Home, img *image.Image) ([]string, error) {
	updates, err := build.Check{CacheDir: home.CacheDir()}.Updates(ctx, img)
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return nil, fmt.Errorf("the archive has not answered within %v", UpdatesBound)
	}
	if err != nil {
		return nil, err
	}
	packages := []string{}
	for _, u := range updates {
		packages = append(packages, u.Package)
	}
	return packages, nil
}

// Lacks names packages, the first few of them.
func Lacks(packages []string) string {
	const shown = 5
	rest := ""
	if n := len(packages) - shown; n > 0 {
		packages, rest = packages[:shown], fmt.Sprintf(" and %d more", n)
	}
	return "lacks security updates of " + strings.Join(packages, ", ") + rest
}

// diagnoseUpdates says whether the archive has security updates that images lack.
func diagnoseUpdates(ctx context.Context, home machine.Home, images []*image.Image) []Finding {
	ctx, cancel := context.WithTimeout(ctx, UpdatesBound)
	defer cancel()
	const what = "security updates"
	const way = "hyve image build makes an image of today's packages, hyve upgrade NAME moves a machine to it"
	var findings []Finding
	for _, img := range images {
		name := "image " + strings.TrimPrefix(img.Digest, "sha256:")[:12]
		packages, err := Lacking(ctx, home, img)
		switch {
		case err != nil:
			return append(findings, Finding{what, Note, "could not be checked: " + err.Error(), hint.Of(err)})
		case len(packages) > 0:
			findings = append(findings, Finding{what, Note, name + " " + Lacks(packages), way})
		case img.Manifest.Debian.NoSecurity:
			findings = append(findings, Finding{what, Note, name + " was made without them", way})
		}
	}
	if len(findings) == 0 && len(images) > 0 {
		findings = append(findings, Finding{what, OK, "the guest images have all that Debian has", ""})
	}
	return findings
}
