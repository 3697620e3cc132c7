package cli

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

// updatesBound is how long the archive may take to say which security updates it has,
// for all images together.
const updatesBound = 5 * time.Second

// lacking returns the packages of an image of which the archive has a security update, none
// as an empty list. The error says why the archive could not be asked.
func lacking(ctx context.Context, home machine.Home, img *image.Image) ([]string, error) {
	updates, err := build.Check{CacheDir: home.CacheDir()}.Updates(ctx, img)
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return nil, fmt.Errorf("the archive has not answered within %v", updatesBound)
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

// checkImages notes which security updates each image of a list lacks.
func checkImages(ctx context.Context, home machine.Home, entries []image.Entry, list []listedImage) {
	ctx, cancel := context.WithTimeout(ctx, updatesBound)
	defer cancel()
	for i, e := range entries {
		if e.Err == nil {
			list[i].Lacks, list[i].unasked = lacking(ctx, home, e.Image)
		}
	}
}

// lacks names packages, the first few of them.
func lacks(packages []string) string {
	const shown = 5
	rest := ""
	if n := len(packages) - shown; n > 0 {
		packages, rest = packages[:shown], fmt.Sprintf(" and %d more", n)
	}
	return "lacks security updates of " + strings.Join(packages, ", ") + rest
}

// diagnoseUpdates says whether the archive has security updates that images lack.
func diagnoseUpdates(ctx context.Context, home machine.Home, images []*image.Image) []finding {
	ctx, cancel := context.WithTimeout(ctx, updatesBound)
	defer cancel()
	const what = "security updates"
	const way = "hyve image build makes an image of today's packages, hyve upgrade NAME moves a machine to it"
	var findings []finding
	for _, img := range images {
		name := "image " + strings.TrimPrefix(img.Digest, "sha256:")[:12]
		packages, err := lacking(ctx, home, img)
		switch {
		case err != nil:
			return append(findings, finding{what, "note", "could not be checked: " + err.Error(), hint.Of(err)})
		case len(packages) > 0:
			findings = append(findings, finding{what, "note", name + " " + lacks(packages), way})
		case img.Manifest.Debian.NoSecurity:
			findings = append(findings, finding{what, "note", name + " was made without them", way})
		}
	}
	if len(findings) == 0 && len(images) > 0 {
		findings = append(findings, finding{what, "ok", "the guest images have all that Debian has", ""})
	}
	return findings
}
