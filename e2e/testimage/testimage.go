// Package testimage makes the guest images that tests and measurements use.
package testimage

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"

	"github.com/hyve-vm/hyve/internal/image"
	"github.com/hyve-vm/hyve/internal/image/build"
	"github.com/hyve-vm/hyve/internal/machine"
)

// Make returns the image with an engine that this hyve makes, where hyve finds it in its
// data directory. hyve itself refuses a suite that has expired; mirrors of testing may lag
// behind by weeks, and nothing but tests runs in what is made of it here.
func Make(ctx context.Context, home machine.Home, engine build.Engine) (*image.Image, error) {
	if err := home.Make(); err != nil {
		return nil, err
	}
	store, err := image.Open(home.ImagesDir())
	if err != nil {
		return nil, err
	}
	img, err := build.Find(store, runtime.GOARCH, engine)
	if !errors.Is(err, image.ErrNotFound) {
		return img, err
	}
	return build.Build(ctx, build.Options{
		Store: store, CacheDir: home.CacheDir(), Arch: runtime.GOARCH, Engine: engine, Expired: true,
		Warn: func(err error) { fmt.Fprintln(os.Stderr, "warning:", err) },
	})
}
