// Package testregistry is a real registry on loopback with a busybox image in
// it, for tests and the demo on machines that reach no public registry.
package testregistry

import (
	"archive/tar"
	"bytes"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

// New returns a registry that holds library/busybox, made of the static busybox
// at path, which must run on this host.
func New(busybox string) (http.Handler, error) {
	image, err := busyboxImage(busybox)
	if err != nil {
		return nil, fmt.Errorf("making the busybox image: %w", err)
	}
	handler := registry.New(registry.Logger(log.New(io.Discard, "", 0)))
	server := httptest.NewServer(handler)
	defer server.Close()
	tag, err := name.NewTag(strings.TrimPrefix(server.URL, "http://")+"/library/busybox:latest", name.Insecure)
	if err != nil {
		return nil, err
	}
	if err := remote.Write(tag, image); err != nil {
		return nil, fmt.Errorf("pushing the busybox image: %w", err)
	}
	return handler, nil
}

func busyboxImage(path string) (v1.Image, error) {
	applets, err := exec.Command(path, "--list").Output()
	if err != nil {
		return nil, fmt.Errorf("running %s: %w", path, err)
	}
	binary, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var layer bytes.Buffer
	w := tar.NewWriter(&layer)
	for _, dir := range []string{"bin/", "etc/", "root/", "tmp/", "var/"} {
		w.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: dir, Mode: 0o755})
	}
	passwd := []byte("root:x:0:0:root:/root:/bin/sh\n")
	w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: "etc/passwd", Mode: 0o644, Size: int64(len(passwd))})
	w.Write(passwd)
	w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: "bin/busybox", Mode: 0o755, Size: int64(len(binary))})
	w.Write(binary)
	for applet := range strings.FieldsSeq(string(applets)) {
		if applet != "busybox" {
			w.WriteHeader(&tar.Header{Typeflag: tar.TypeSymlink, Name: "bin/" + applet, Linkname: "busybox"})
		}
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	content, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(layer.Bytes())), nil
	})
	if err != nil {
		return nil, err
	}
	image, err := mutate.AppendLayers(empty.Image, content)
	if err != nil {
		return nil, err
	}
	return mutate.ConfigFile(image, &v1.ConfigFile{
		OS: "linux", Architecture: "amd64",
		RootFS: v1.RootFS{Type: "layers", DiffIDs: must(content.DiffID())},
		Config: v1.Config{Env: []string{"PATH=/bin"}, Cmd: []string{"sh"}},
	})
}

func must(id v1.Hash, err error) []v1.Hash {
	if err != nil {
		panic(err) // the layer is in memory
	}
	return []v1.Hash{id}
}
