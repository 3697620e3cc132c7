package build

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"sort"

	"github.com/hyve-vm/hyve/internal/image"
)

// recipeVersion goes up with every change of this package's code that changes
// the images it makes. Changes of its lists and files count by themselves.
const recipeVersion = 4

// Recipe returns the hash of all that determines an image for arch with Stable or
// Newest besides Debian's packages. An image whose manifest has another one was made
// by another hyve and should be made anew.
func Recipe(arch string, engine Engine) (string, error) {
	if err := checkArch(arch); err != nil {
		return "", err
	}
	// Not as a whole: every creation asks, and would wait for a copy of it.
	init, err := openHyveInit(arch)
	if err != nil {
		return "", err
	}
	return recipeOf(arch, engine, init)
}

func recipeOf(arch string, engine Engine, init io.Reader) (string, error) {
	sum := sha256.New()
	if _, err := io.Copy(sum, init); err != nil {
		return "", fmt.Errorf("hashing hyve-init: %w", err)
	}
	var left []string
	for name := range never {
		left = append(left, name)
	}
	sort.Strings(left)
	var files []string
	for _, f := range staticFiles() {
		files = append(files, fmt.Sprintf("%+v", f))
	}
	data, err := json.Marshal(map[string]any{
		"arch": arch, "version": recipeVersion, "format": image.Format, "engine": engine, "releases": engine.releases(), "pins": engine.pins().Names,
		"init": hex.EncodeToString(sum.Sum(nil)), "wanted": wanted(arch), "never": left, "partly": partly, "copyrightOf": copyrightOf, "only": only(arch), "dropped": dropped,
		"keptModules": keptModules, "unkeptModules": unkeptModules, "initrdModules": initrdModules,
		"engineModules": engineModules, "files": files, "busybox": busyboxLinks, "messages": messages, "cmdline": cmdline,
	})
	if err != nil {
		return "", fmt.Errorf("hashing the recipe: %w", err)
	}
	h := sha256.Sum256(data)
	return "sha256:" + hex.EncodeToString(h[:]), nil
}

func checkArch(arch string) error {
	if arch != "amd64" && arch != "arm64" {
		return fmt.Errorf("building an image for %q: only amd64 and arm64 are supported", arch)
	}
	return nil
}
