package build

import (
	"bytes"
	"context"
	"debug/elf"
	"io/fs"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/erofs/go-erofs"

	"github.com/hyve-vm/hyve/internal/image"
)

// TestBuildFromMirror builds real images, with either engine and each twice, from the
// mirror that this computer is configured for, which may lag behind with what is not
// stable. HYVE_TEST_CACHE_DIR is where downloads are kept.
func TestBuildFromMirror(t *testing.T) {
	if testing.Short() {
		t.Skip("-short: this downloads 150 MB for each architecture")
	}
	cache := os.Getenv("HYVE_TEST_CACHE_DIR")
	if cache == "" {
		cache = t.TempDir()
	}
	for arch, machine := range map[string]elf.Machine{"amd64": elf.EM_X86_64, "arm64": elf.EM_AARCH64} {
		for _, engine := range []Engine{Stable, Newest} {
			t.Run(arch+"/"+string(engine), func(t *testing.T) {
				var digests []string
				for range 2 {
					img := buildReal(t, arch, engine, cache)
					digests = append(digests, img.Digest)
					inspect(t, img, machine)
				}
				if digests[0] != digests[1] {
					t.Errorf("the second build made %s, the first %s", digests[1], digests[0])
				}
			})
		}
	}
}

// buildReal builds into a store of its own.
func buildReal(t *testing.T, arch string, engine Engine, cache string) *image.Image {
	t.Helper()
	store, err := image.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	stage, began := "", time.Now()
	img, err := Build(context.Background(), Options{
		Store: store, Arch: arch, Engine: engine, HyveInit: guestInit(t, arch), CacheDir: cache, Expired: engine == Newest,
		Warn: func(err error) { t.Log("warning:", err) },
		Progress: func(p Progress) {
			if p.Stage != stage {
				t.Logf("%6.2fs %s (%d)", time.Since(began).Seconds(), p.Stage, p.Total)
				stage = p.Stage
			}
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%6.2fs %s", time.Since(began).Seconds(), img.Digest)
	if err := store.Verify(context.Background(), img); err != nil {
		t.Fatal(err)
	}
	return img
}

// inspect makes sure that all that boots of an image is for one architecture.
func inspect(t *testing.T, img *image.Image, machine elf.Machine) {
	t.Helper()
	kernel, err := os.ReadFile(img.Kernel())
	if err != nil {
		t.Fatal(err)
	}
	if machine == elf.EM_AARCH64 { // a raw Image: the magic number of its header
		if len(kernel) < 64 || string(kernel[56:60]) != "ARM\x64" {
			t.Errorf("the kernel is no arm64 Image but begins with %q", kernel[:min(64, len(kernel))])
		}
	} else {
		checkELF(t, "the kernel", kernel, machine)
	}
	initrd, err := os.ReadFile(img.Initrd())
	if err != nil || !bytes.Contains(initrd, guestInit(t, img.Arch)) {
		t.Errorf("the initrd is without hyve-init (%v)", err)
	}
	f, err := os.Open(img.Root())
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for name, suite := range suitesOf(t, img) {
		// So far the newest engine needs no newer library, but docker-init in a package that
		// the base release does not have.
		release, _, _ := strings.Cut(suite, "-")
		if newer := EngineOf(img) == Newest && (slices.Contains(enginePackages, name) || name == "tini-static"); newer != (release == nextRelease) {
			t.Errorf("%s is of %s", name, suite)
		}
	}
	root, err := erofs.Open(f)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"usr/bin/hyve-init", "usr/bin/docker-init", "usr/sbin/dockerd", "usr/bin/containerd", "usr/sbin/runc", "usr/bin/busybox", "usr/bin/bash"} {
		data, err := fs.ReadFile(root, name)
		if err != nil {
			t.Error(err)
			continue
		}
		checkELF(t, name, data, machine)
	}
	if text, err := fs.ReadFile(root, "usr/share/doc/hyve-init/copyright"); err != nil || string(text) != licences {
		t.Errorf("hyve-init's licences are %.40q, %v", text, err)
	}
}

func checkELF(t *testing.T, name string, data []byte, machine elf.Machine) {
	t.Helper()
	f, err := elf.NewFile(bytes.NewReader(data))
	if err != nil || f.Machine != machine {
		t.Errorf("%s is no program for %v: %+v, %v", name, machine, f, err)
	}
}
