package guest

import (
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/hyve-vm/hyve/internal/guest/mount"
)

// binfmtDir is where binfmt_misc is mounted.
const binfmtDir = "/proc/sys/fs/binfmt_misc"

// registerFormats has programs for other processors run by an emulator, where the image has
// one, and by one that says so elsewhere. Whoever registers another one later is asked
// first.
func registerFormats() error {
	m := mount.Point{Source: "binfmt_misc", Target: binfmtDir, FSType: "binfmt_misc", Flags: sysOnly}
	if err := m.Mount(); err != nil {
		return err
	}
	native := nativePlatforms(runtime.GOARCH)
	if runs32() {
		native = append(native, "arm/v7")
	}
	var errs []error
	for _, m := range elfMachines {
		if slices.Contains(native, m.platform) {
			continue
		}
		// As Debian's own: with the credentials of set-ID programs, and their own name for them.
		line := m.registration("qemu-"+m.name, m.emulatorPath(), "OCPF")
		if !exists(m.emulatorPath()) {
			line = m.registration("hyve-"+m.name, foreignPath, "F")
		}
		err := os.WriteFile(binfmtDir+"/register", []byte(line), 0)
		if err != nil && !errors.Is(err, unix.EEXIST) {
			errs = append(errs, fmt.Errorf("registering programs of %s: %w", m.platform, err))
		}
	}
	return errors.Join(errs...)
}

// runs32 tells whether an arm64 processor runs programs of 32 bits. The kernel grants their
// personality only then.
func runs32() bool {
	const query, perLinux32 = 0xffffffff, 8
	if runtime.GOARCH != "arm64" {
		return false
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	was, _, _ := unix.Syscall(unix.SYS_PERSONALITY, query, 0, 0)
	if _, _, errno := unix.Syscall(unix.SYS_PERSONALITY, perLinux32, 0, 0); errno != 0 {
		return false
	}
	unix.Syscall(unix.SYS_PERSONALITY, was, 0, 0)
	return true
}

// runForeign says why the program cannot be run for which the kernel runs this one, and
// returns the exit status that shells have for that.
func runForeign(argv []string) int {
	path := ""
	if len(argv) > 1 {
		path = argv[1]
	}
	head := make([]byte, 20)
	if f, err := os.Open(path); err == nil {
		n, _ := io.ReadFull(f, head)
		head = head[:n]
		f.Close()
	}
	fmt.Fprintln(os.Stderr, describeForeign(runtime.GOARCH, path, head))
	return 126
}
