// Package qemu runs a hypervisor.Config under QEMU: [Find] a QEMU, ask it which
// accelerator really works ([QEMU.Accelerator]), turn the Config into a command
// line ([Args], pure) and own the process ([Start]).
package qemu

import (
	"fmt"
	"runtime"
	"strconv"
	"strings"

	"github.com/hyve-vm/hyve/internal/hypervisor"
)

// Version is a QEMU release.
type Version struct {
	Major int `json:"major"`
	Minor int `json:"minor"`
	Micro int `json:"micro"`
}

// MinVersion is the oldest QEMU that will do: 7.2 brought -netdev stream, over
// which the guest's network reaches the supervisor.
var MinVersion = Version{Major: 7, Minor: 2}

func (v Version) String() string {
	return fmt.Sprintf("%d.%d.%d", v.Major, v.Minor, v.Micro)
}

// Less says whether v is older than w.
func (v Version) Less(w Version) bool {
	if v.Major != w.Major {
		return v.Major < w.Major
	}
	if v.Minor != w.Minor {
		return v.Minor < w.Minor
	}
	return v.Micro < w.Micro
}

// parseVersion finds the release in what `qemu-system-… --version` prints:
// "QEMU emulator version 7.2.22 (Debian 1:7.2+dfsg-7)". Release candidates are
// "9.1.90 (v9.2.0-rc0)", distributions append what they like.
func parseVersion(output string) (Version, bool) {
	_, rest, ok := strings.Cut(output, "QEMU emulator version ")
	if !ok {
		return Version{}, false
	}
	end := strings.IndexFunc(rest, func(r rune) bool { return r != '.' && (r < '0' || r > '9') })
	if end >= 0 {
		rest = rest[:end]
	}
	parts := strings.Split(strings.TrimRight(rest, "."), ".")
	if len(parts) < 2 || len(parts) > 4 {
		return Version{}, false
	}
	var n [4]int
	for i, p := range parts {
		v, err := strconv.ParseUint(p, 10, 16)
		if err != nil {
			return Version{}, false
		}
		n[i] = int(v)
	}
	return Version{n[0], n[1], n[2]}, true
}

// QEMU is an emulator that was found, asked, and is fit.
type QEMU struct {
	Path    string // absolute
	Arch    string // of its guests, in Go's words: "amd64", "arm64"
	Version Version
	Sandbox bool     // was built with -sandbox
	Accels  []string // built in, not as a module: "hvf", "kvm", "tcg"

	parts    []string // see policy
	key      string   // of the binary: path, inode, size, time
	cacheDir string

	copiesMemory bool   // in a test: as where nothing can be shared
	processor    string // in a test: what guests of KVM see, instead of this host's
}

var _ hypervisor.Backend = (*QEMU)(nil)

func (q *QEMU) String() string {
	return fmt.Sprintf("QEMU %s (%s)", q.Version, q.Path)
}

// Release implements hypervisor.Backend.
func (q *QEMU) Release() string { return "QEMU " + q.Version.String() }

// KernelCmdline implements hypervisor.Backend.
func (q *QEMU) KernelCmdline(accel string) string { return KernelCmdline(q.Features(accel)) }

// CommandLine implements hypervisor.Backend.
func (q *QEMU) CommandLine(cfg hypervisor.Config, accel string) []string {
	return append([]string{q.Path}, Args(cfg, q.Features(accel))...)
}

// Features is what decides a command line apart from the VM itself.
type Features struct {
	Version Version
	Arch    string // "amd64", "arm64"
	Accel   string // "kvm", "hvf", "tcg"
	Sandbox bool
	// Reopens says that /proc/self/fd/N opens the file of descriptor N anew.
	Reopens bool
}

// Features of q with the accelerator of that name.
func (q *QEMU) Features(accel string) Features {
	return Features{Version: q.Version, Arch: q.Arch, Accel: accel, Sandbox: q.Sandbox, Reopens: runtime.GOOS == "linux"}
}

// names of the emulator by Go's architecture.
var systems = map[string]string{"amd64": "x86_64", "arm64": "aarch64"}

// binaryName is the emulator whose guests have the host's architecture: all
// that Docker users expect, and the only one that can be accelerated.
func binaryName() string {
	if system, ok := systems[runtime.GOARCH]; ok {
		return "qemu-system-" + system
	}
	return "qemu-system-" + runtime.GOARCH
}

// installHint names the package that has QEMU.
func installHint() string {
	if runtime.GOOS == "darwin" {
		return "brew install qemu"
	}
	pkg := "qemu-system-x86"
	if runtime.GOARCH == "arm64" {
		pkg = "qemu-system-arm"
	}
	return fmt.Sprintf("Debian, Ubuntu: sudo apt install %s; Fedora: sudo dnf install %s-core", pkg, fedoraPackage())
}

func fedoraPackage() string {
	if runtime.GOARCH == "arm64" {
		return "qemu-system-aarch64"
	}
	return "qemu-system-x86"
}
