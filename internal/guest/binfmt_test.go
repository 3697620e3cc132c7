package guest

import (
	"slices"
	"strings"
	"testing"
)

// The magics are those of QEMU's scripts/qemu-binfmt-conf.sh.
func TestRegistration(t *testing.T) {
	for name, want := range map[string]string{
		"aarch64": `\x7fELF\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\xb7\x00:\xff\xff\xff\xff\xff\xff\xff\x00\xff\xff\xff\xff\xff\xff\xff\xff\xfe\xff\xff\xff`,
		"arm":     `\x7fELF\x01\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\x28\x00:\xff\xff\xff\xff\xff\xff\xff\x00\xff\xff\xff\xff\xff\xff\xff\xff\xfe\xff\xff\xff`,
		"s390x":   `\x7fELF\x02\x02\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\x16:\xff\xff\xff\xff\xff\xff\xff\x00\xff\xff\xff\xff\xff\xff\xff\xff\xff\xfe\xff\xff`,
		"riscv64": `\x7fELF\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\xf3\x00:\xff\xff\xff\xff\xff\xff\xff\x00\xff\xff\xff\xff\xff\xff\xff\xff\xfe\xff\xff\xff`,
	} {
		i := slices.IndexFunc(elfMachines, func(m elfMachine) bool { return m.name == name })
		want = ":qemu-" + name + ":M::" + strings.ReplaceAll(want, "ELF", `\x45\x4c\x46`) + ":/usr/bin/qemu-" + name + ":OCPF"
		if got := elfMachines[i].registration("qemu-"+name, elfMachines[i].emulatorPath(), "OCPF"); got != want {
			t.Errorf("got  %s\nwant %s", got, want)
		}
	}
}

func TestDescribeForeign(t *testing.T) {
	head := []byte("\x7fELF\x02\x02\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x03\x00\x16")
	want := `exec "/bin/\x1bapp": exec format error: it is for linux/s390x; use an image for one of linux/amd64, linux/386, linux/arm64, linux/arm/v7, ` +
		"or docker run --privileged --rm tonistiigi/binfmt --install s390x once"
	if got := describeForeign("amd64", "/bin/\x1bapp", head); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	for _, head := range []string{"", "\x7fELF", "\x7fELF\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\xff\xff"} {
		if got := describeForeign("arm64", "x", []byte(head)); !strings.Contains(got, "another kind of processor; use an image for one of linux/arm64, linux/amd64, linux/arm/v7") {
			t.Errorf("%q: %s", head, got)
		}
	}
}
