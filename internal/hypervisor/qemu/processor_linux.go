package qemu

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// guestProcessor stands for all that a guest of KVM may have found out about its processor, so
// that nobody thaws its state on another one: a program that was told of AVX2 dies without.
// What differs from core to core is left out.
func guestProcessor() (string, error) {
	features, err := processorFeatures()
	if err != nil {
		return "", fmt.Errorf("asking KVM what processor a guest sees: %w", err)
	}
	var kernel unix.Utsname
	if err := unix.Uname(&kernel); err != nil {
		return "", fmt.Errorf("asking for the kernel's release: %w", err)
	}
	// KVM's own devices and the workarounds that it shows are the kernel's.
	sum := sha256.Sum256(features)
	return fmt.Sprintf("processor %x with KVM of Linux %s", sum[:8], unix.ByteSliceToString(kernel.Release[:])), nil
}

// coreWords are the lines of an arm64 /proc/cpuinfo that say what a core is.
var coreWords = []string{"CPU implementer", "CPU architecture", "CPU variant", "CPU part", "CPU revision", "Features"}

// describeCores returns what an arm64 /proc/cpuinfo says of the cores' models, each once:
// several kinds may take turns in running a guest.
func describeCores(cpuinfo []byte) string {
	var said []string
	for line := range bytes.Lines(cpuinfo) {
		key, value, ok := strings.Cut(string(line), ":")
		if ok && slices.Contains(coreWords, strings.TrimSpace(key)) {
			said = append(said, strings.TrimSpace(key)+": "+strings.TrimSpace(value))
		}
	}
	slices.Sort(said)
	return strings.Join(slices.Compact(said), "\n")
}
