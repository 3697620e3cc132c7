package qemu

import (
	"flag"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/hyve-vm/hyve/internal/hypervisor"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// goldenConfig is a machine as hyve makes it, at a path that needs quoting.
func goldenConfig() hypervisor.Config {
	return hypervisor.Config{
		Name:    "hyve-default",
		CPUs:    2,
		Memory:  2048 << 20,
		Kernel:  "/images/debian, 13/vmlinux",
		Initrd:  "/images/debian, 13/initrd",
		Cmdline: "console=hvc0 quiet",
		Disks: []hypervisor.Disk{
			{Serial: "hyve-root", Path: "/images/debian, 13/root.erofs", ReadOnly: true},
			{Serial: "hyve-data", Path: `/home/zoé "z" <x>/data.img`},
		},
		Channels:   []hypervisor.Channel{{Name: "hyve.control", Socket: "/run/a,b/guest.sock"}},
		Network:    hypervisor.Network{Socket: "/run/a,b/net.sock", MAC: "52:54:00:12:34:56", MTU: 16384},
		Console:    true,
		Generation: "12345678-9abc-def0-1234-56789abcdef0",
	}
}

func TestArgsGolden(t *testing.T) {
	v7, v10 := Version{7, 2, 22}, Version{10, 0, 2}
	for name, f := range map[string]Features{
		"tcg-7.2":   {Version: v7, Arch: "amd64", Accel: "tcg", Sandbox: true, Reopens: true},
		"tcg-10":    {Version: v10, Arch: "amd64", Accel: "tcg", Sandbox: true, Reopens: true},
		"kvm":       {Version: v10, Arch: "amd64", Accel: "kvm", Sandbox: true, Reopens: true},
		"hvf":       {Version: v10, Arch: "amd64", Accel: "hvf"},
		"arm64-tcg": {Version: v10, Arch: "arm64", Accel: "tcg", Sandbox: true, Reopens: true},
		"arm64-kvm": {Version: v10, Arch: "arm64", Accel: "kvm", Sandbox: true, Reopens: true},
		"arm64-hvf": {Version: v10, Arch: "arm64", Accel: "hvf"},
		"thaw":      {Version: v7, Arch: "amd64", Accel: "tcg", Sandbox: true, Reopens: true},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := goldenConfig()
			cfg.Cmdline += " " + KernelCmdline(f)
			if name == "thaw" {
				cfg.Incoming, cfg.MemoryFile = true, "/home/zoé, z/frozen.taken/memory"
			}
			if !RunsVM(append([]string{"qemu"}, Args(cfg, f)...)) {
				t.Error("nobody finds it among the processes")
			}
			var b strings.Builder
			for _, arg := range Args(cfg, f) {
				// An option and its value share a line.
				if strings.HasPrefix(arg, "-") && b.Len() > 0 {
					b.WriteByte('\n')
				} else if b.Len() > 0 {
					b.WriteByte(' ')
				}
				b.WriteString(arg)
			}
			b.WriteByte('\n')
			path := filepath.Join("testdata", name+".golden")
			if *update {
				if err := os.WriteFile(path, []byte(b.String()), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if got := b.String(); got != string(want) {
				t.Errorf("%s differs; if that is wanted: go test -update\ngot:\n%s\nwant:\n%s", path, got, want)
			}
		})
	}
}

// TestArgsMinimal has nothing that a VM can do without.
func TestArgsMinimal(t *testing.T) {
	line := strings.Join(Args(hypervisor.Config{CPUs: 1, Memory: 1 << 20, Kernel: "/k"}, Features{Version: MinVersion, Arch: "amd64", Accel: "tcg"}), " ")
	for _, absent := range []string{"-initrd", "-append", "-netdev", "-blockdev", "virtconsole", "vmgenid", "-sandbox"} {
		if strings.Contains(line, absent) {
			t.Errorf("%s in %s", absent, line)
		}
	}
}

func TestKernelCmdline(t *testing.T) {
	cmdline := func(major int, arch, accel string) string {
		return " " + KernelCmdline(Features{Version: Version{major, 0, 0}, Arch: arch, Accel: accel}) + " "
	}
	for _, accel := range []string{"kvm", "hvf", "tcg"} {
		for _, weak := range []string{" mitigations=off ", " nokaslr ", " random.trust_cpu=on ", " cryptomgr.notests ", " tsc=reliable "} {
			if has := strings.Contains(cmdline(10, "amd64", accel), weak); has != (accel == "tcg") {
				t.Errorf("%s under %s: %t", weak, accel, has)
			}
		}
	}
	for _, tt := range []struct {
		major int
		arch  string
		accel string
		want  []string
	}{
		{7, "amd64", "tcg", []string{" clearcpuid=cx16 ", " norandmaps ", " GODEBUG=cpu.aes=off,"}},
		{8, "amd64", "tcg", []string{" GODEBUG=cpu.aes=off,"}},
		{10, "amd64", "tcg", nil}, {7, "amd64", "kvm", nil}, {7, "arm64", "tcg", nil},
	} {
		for _, word := range []string{" clearcpuid=cx16 ", " norandmaps ", " GODEBUG=cpu.aes=off,"} {
			if got, want := strings.Contains(cmdline(tt.major, tt.arch, tt.accel), word), slices.Contains(tt.want, word); got != want {
				t.Errorf("%s in %d %s %s: %t", word, tt.major, tt.arch, tt.accel, got)
			}
		}
	}
}

func TestTranslationCache(t *testing.T) {
	for cpus, want := range map[int]string{1: "256", 2: "256", 3: "384", 4: "512", 64: "512"} {
		got := accelArg(hypervisor.Config{CPUs: cpus}, Features{Accel: accelTCG})
		if got != "tcg,thread=multi,tb-size="+want {
			t.Errorf("%d CPUs: %s", cpus, got)
		}
	}
	if got := accelArg(hypervisor.Config{CPUs: 2}, Features{Accel: accelKVM}); got != "kvm" {
		t.Error(got)
	}
}
