package cli

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"github.com/hyve-vm/hyve/internal/control"
	"github.com/hyve-vm/hyve/internal/image"
	"github.com/hyve-vm/hyve/internal/machine"
)

// full is a standard output on a full disk.
type full struct{}

func (full) Write([]byte) (int, error) { return 0, syscall.ENOSPC }

// makeImage puts an image into a store.
func makeImage(t *testing.T, store *image.Store, arch string) *image.Image {
	t.Helper()
	draft, err := store.Draft()
	if err != nil {
		t.Fatal(err)
	}
	defer draft.Close()
	for _, name := range []string{image.KernelFile, image.InitrdFile, image.RootFile} {
		if err := os.WriteFile(filepath.Join(draft.Dir, name), []byte(name), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	img, err := draft.Commit(image.Manifest{Arch: arch, Kernel: "6.12", Cmdline: "quiet"})
	if err != nil {
		t.Fatal(err)
	}
	return img
}

// makeMachine makes a machine without a disk.
func makeMachine(t *testing.T, home machine.Home, name string) *machine.Machine {
	t.Helper()
	spec := machine.Spec{Name: name, CPUs: 1, Memory: machine.MinMemory, Disk: machine.MinDisk, Image: "sha256:00"}
	m := machine.New(home, spec, netip.MustParseAddr("127.18.0.1"))
	draft, err := home.Draft()
	if err != nil {
		t.Fatal(err)
	}
	defer draft.Discard()
	if err := errors.Join(os.Mkdir(draft.Dir().Logs(), 0o700), os.WriteFile(draft.Dir().Disk(), nil, 0o600), draft.Commit(m)); err != nil {
		t.Fatal(err)
	}
	return m
}

// answering is a supervisor that says Running and does nothing.
type answering struct{ control.Supervisor }

func (answering) Status() (control.Status, <-chan struct{}) {
	return control.Status{State: control.Running}, nil
}

func (answering) Stats(context.Context) (control.Stats, error) { return control.Stats{}, nil }

// What cannot be printed is a failure, whatever prints it.
func TestFullOutput(t *testing.T) {
	dir, err := os.MkdirTemp("", "") // short enough for a socket
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	home := machine.Home(dir)
	m := makeMachine(t, home, "m")
	if err := errors.Join(m.Dir().MakeRunDir(), os.WriteFile(m.Dir().Log("console"), []byte("line\n"), 0o600)); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("unix", m.Dir().ControlSocket())
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(m.Dir().ControlSocket(), 0o600); err != nil {
		t.Fatal(err)
	}
	go control.Serve(t.Context(), l, answering{})
	store, err := image.Open(home.ImagesDir())
	if err != nil {
		t.Fatal(err)
	}
	img := makeImage(t, store, runtime.GOARCH)
	for _, line := range []string{
		"ls", "ls -q", "ls --format json", "status", "status --format json", "inspect", "ip", "url", "env",
		"stats --no-stream", "stats --format json", "logs", "logs -n 1", "snapshot ls", "snapshot ls --format json",
		"image ls", "image ls --format json", "image verify", "image verify " + img.Digest,
		"create x --dry-run --image " + img.Digest, "doctor", "version", "completion bash",
	} {
		t.Run(line, func(t *testing.T) {
			if _, err := exec.LookPath(map[string]string{"amd64": "qemu-system-x86_64", "arm64": "qemu-system-aarch64"}[runtime.GOARCH]); err != nil && strings.Contains(line, "dry-run") {
				t.Skip(err)
			}
			a := newApp(map[string]string{"HYVE_HOME": dir, "HOME": dir, "SHELL": "/bin/bash"}, full{}, io.Discard)
			root := a.root()
			root.SetArgs(strings.Fields(line))
			if err := root.ExecuteContext(t.Context()); !errors.Is(err, syscall.ENOSPC) {
				t.Errorf("got error %v", err)
			}
		})
	}
}
