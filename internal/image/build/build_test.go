package build

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp"
	"github.com/erofs/go-erofs"
	"github.com/klauspost/compress/zstd"

	"github.com/hyve-vm/hyve/internal/image"
	"github.com/hyve-vm/hyve/internal/image/debian"
	"github.com/hyve-vm/hyve/internal/image/debian/debiantest"
)

const testKernel = "6.12.1-cloud-test"

// elfFile makes a 64-bit little-endian ELF file with one note segment and one
// section.
func elfFile(note []byte, section string, content []byte) []byte {
	const head, ph, sh = 64, 56, 64
	names := "\x00" + section + "\x00.shstrtab\x00"
	noteAt := head + ph
	contentAt := noteAt + len(note)
	namesAt := contentAt + len(content)
	sectionsAt := namesAt + len(names)
	var b bytes.Buffer
	le := func(v ...any) {
		for _, x := range v {
			_ = binary.Write(&b, binary.LittleEndian, x)
		}
	}
	b.WriteString("\x7fELF\x02\x01\x01" + strings.Repeat("\x00", 9))
	le(uint16(2), uint16(62), uint32(1), uint64(0), uint64(head), uint64(sectionsAt), uint32(0),
		uint16(head), uint16(ph), uint16(1), uint16(sh), uint16(3), uint16(2))
	le(uint32(4), uint32(4), uint64(noteAt), uint64(0), uint64(0), uint64(len(note)), uint64(len(note)), uint64(4))
	b.Write(note)
	b.Write(content)
	b.WriteString(names)
	le(make([]byte, sh))
	for _, s := range []struct {
		name, typ uint32
		at, size  int
	}{{1, 1, contentAt, len(content)}, {uint32(len(section)) + 2, 3, namesAt, len(names)}} {
		le(s.name, s.typ, uint64(0), uint64(0), uint64(s.at), uint64(s.size), uint32(0), uint32(0), uint64(1), uint64(0))
	}
	return b.Bytes()
}

// pvhNote is XEN_ELFNOTE_PHYS32_ENTRY.
var pvhNote = []byte("\x04\x00\x00\x00\x08\x00\x00\x00\x12\x00\x00\x00Xen\x00\x00\x00\x00\x01\x00\x00\x00\x00")

// bzImage wraps a payload as the kernel's build does.
func bzImage(payload []byte) []byte {
	b := make([]byte, 1024, 1024+len(payload))
	b[0x1f1] = 1
	copy(b[0x202:], "HdrS\x0f\x02")
	binary.LittleEndian.PutUint32(b[0x24c:], uint32(len(payload)))
	return append(b, payload...)
}

func zstdPayload(t testing.TB, vmlinux []byte) []byte {
	t.Helper()
	w, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	return binary.LittleEndian.AppendUint32(w.EncodeAll(vmlinux, nil), uint32(len(vmlinux)))
}

func testModule(depends string, signed bool) []byte {
	ko := elfFile(nil, ".modinfo", []byte("license=GPL\x00alias=net-pf-1-"+depends+"\x00depends="+depends+"\x00"))
	if signed {
		ko = append(ko, "signature\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x09"...)
		ko = append(ko, signatureMark...)
	}
	return ko
}

// testDebs makes stand-ins for all the packages wanted.
func testDebs(t testing.TB, arch string) []debiantest.Deb {
	t.Helper()
	vmlinuz := bzImage(zstdPayload(t, elfFile(pvhNote, ".text", []byte("code"))))
	if arch == "arm64" {
		vmlinuz = make([]byte, 128)
		copy(vmlinuz[0x38:], "ARMd")
	}
	content := map[string]map[string]string{
		"linux-image-cloud-" + arch: {
			"./boot/vmlinuz-" + testKernel:                                 string(vmlinuz),
			"./boot/config-" + testKernel:                                  "CONFIG_X=y\n",
			"./usr/lib/modules/" + testKernel + "/modules.builtin":         "kernel/fs/ext4/ext4.ko\nkernel/net/virtio-net-lib.ko\n",
			"./usr/lib/modules/" + testKernel + "/kernel/sound/snd.ko.xz":  string(debiantest.XZ(t, testModule("", true))),
			"./usr/lib/modules/" + testKernel + "/kernel/net/core/x.ko.xz": string(debiantest.XZ(t, testModule("snd", true))),
		},
		"sudo":            {"./usr/bin/sudo": "\x7fELFsudo", "./etc/sudoers": "@includedir /etc/sudoers.d\n"},
		"base-files":      {"./usr/lib/os-release": "ID=debian\n", "./usr/share/doc/base-files/README": "x"},
		"bash":            {"./bin/bash": "\x7fELFbash", "./etc/skel/.profile": "# profile\n", "./usr/share/man/man1/bash.1.gz": "x"},
		"ca-certificates": {"./usr/share/ca-certificates/mozilla/B.crt": "cert B\n", "./usr/share/ca-certificates/mozilla/A.crt": "cert A"},
		"openssh-client":  {"./usr/bin/ssh": "x", "./usr/bin/scp": "copies"},
		"qemu-user":       {"./usr/bin/qemu-alpha": "x", "./usr/bin/qemu-sparc": "x"},
		"fuse3":           {"./usr/bin/fusermount3": "x"},
		"busybox-static":  {"./usr/bin/busybox": ""},
		"docker.io":       {"./usr/sbin/dockerd": strings.Repeat("dockerd", 10_000), "./etc/init.d/cron": "x"},
	}
	for _, name := range only(arch)["qemu-user"] {
		content["qemu-user"]["./"+name] = "emulator"
	}
	for _, l := range busyboxLinks {
		content["busybox-static"]["./usr/bin/busybox"] += "\x00" + filepath.Base(l) + "\x00"
	}
	dirs := map[string]string{"virtio_blk": "drivers/block", "virtio_net": "drivers/net", "erofs": "fs/erofs", "overlay": "fs/overlayfs"}
	for _, m := range append(append([]string{}, initrdModules...), engineModules...) {
		d := dirs[m]
		if d == "" {
			d = "net/core"
		}
		depends := map[string]string{"virtio_net": "net_failover", "xt_nat": "nf-nat,x_tables"}[m]
		content["linux-image-cloud-"+arch]["./usr/lib/modules/"+testKernel+"/kernel/"+d+"/"+m+".ko.xz"] = string(debiantest.XZ(t, testModule(depends, true)))
	}
	for name, dep := range map[string]string{"net_failover": "failover", "failover": "", "nf_nat": "x_tables", "x_tables": ""} {
		d := "net/core/"
		if name == "net_failover" {
			d = "drivers/net/"
		}
		content["linux-image-cloud-"+arch]["./usr/lib/modules/"+testKernel+"/kernel/"+d+name+".ko.xz"] = string(debiantest.XZ(t, testModule(dep, false)))
	}
	var debs []debiantest.Deb
	for _, name := range append(wanted(arch), slices.Sorted(maps.Keys(partly))...) {
		if content[name] == nil {
			content[name] = map[string]string{}
		}
		content[name]["./usr/share/doc/"+name+"/copyright"] = "licence of " + name
		d := debiantest.Deb{Name: name, Version: "1.0+dfsg-1", Content: content[name], Fields: map[string]string{}}
		if name == "sudo" {
			d.Fields["Depends"] = "debconf (>= 1) | debconf-2.0" // never, and not there
		}
		for file := range d.Content {
			h := tar.Header{Name: file, Mode: 0o644}
			if file == "./usr/bin/sudo" {
				h.Mode = 0o4755
				h.PAXRecords = map[string]string{"SCHILY.xattr.security.capability": "caps"}
			}
			d.Files = append(d.Files, h)
		}
		// The map's order differs from run to run; a package's files are sorted
		// so that only the builder can be to blame for a difference.
		sortHeaders(d.Files)
		debs = append(debs, d)
	}
	return debs
}

func sortHeaders(h []tar.Header) {
	for i := range h {
		for j := i; j > 0 && h[j].Name < h[j-1].Name; j-- {
			h[j], h[j-1] = h[j-1], h[j]
		}
	}
}

// guestInit returns the hyve-init of this checkout.
func guestInit(t testing.TB, arch string) []byte {
	t.Helper()
	init, err := guestInits[arch]()
	if err != nil {
		t.Fatal(err)
	}
	return init
}

var guestInits = map[string]func() ([]byte, error){
	"amd64": sync.OnceValues(func() ([]byte, error) { return makeInit("amd64") }),
	"arm64": sync.OnceValues(func() ([]byte, error) { return makeInit("arm64") }),
}

// makeInit compiles it as the Makefile does.
func makeInit(arch string) ([]byte, error) {
	dir, err := os.MkdirTemp("", "hyve-init")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	file := filepath.Join(dir, "hyve-init")
	cmd := exec.Command("go", "build", "-trimpath", "-buildvcs=false", "-ldflags=-s -w", "-o", file, "../../../cmd/hyve-init")
	cmd.Env = append(os.Environ(), "GOOS=linux", "GOARCH="+arch, "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("%w: %s", err, out)
	}
	return os.ReadFile(file)
}

var testDate = time.Date(2026, 5, 31, 10, 0, 0, 0, time.UTC)

// testOptions serves a synthetic archive and returns how to build from it.
func testOptions(t testing.TB, arch string, wrap func(http.Handler) http.Handler) Options {
	t.Helper()
	key := debiantest.Key(t)
	a := debiantest.Archive{Suite: baseRelease, Arch: arch, Date: testDate, Key: key, Debs: testDebs(t, arch)}
	store, err := image.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	return Options{
		Store: store, CacheDir: t.TempDir(), Arch: arch, HyveInit: guestInit(t, arch),
		Mirror: debiantest.Serve(t, a.Files(t), wrap), Keys: openpgp.EntityList{key},
		Now: func() time.Time { return testDate.Add(time.Hour) }, NoSecurity: true,
	}
}

func TestBuild(t *testing.T) {
	o := testOptions(t, "amd64", nil)
	var stages []string
	o.Progress = func(p Progress) {
		if len(stages) == 0 || stages[len(stages)-1] != p.Stage {
			stages = append(stages, p.Stage)
		}
	}
	var warnings []string
	o.Warn = func(err error) { warnings = append(warnings, err.Error()) }
	img, err := Build(context.Background(), o)
	if err != nil {
		t.Fatal(err)
	}
	if got := strings.Join(stages, ", "); got != "Reading the Debian archive, Downloading packages, Unpacking packages, Writing the image" {
		t.Errorf("stages: %s", got)
	}
	if len(warnings) != 1 || warnings[0] != "leaving out module x, which needs snd" {
		t.Errorf("warnings: %q", warnings)
	}
	recipe, err := recipeOf("amd64", Stable, bytes.NewReader(o.HyveInit))
	if m := img.Manifest; err != nil || m.Kernel != testKernel || m.Docker != "1.0+dfsg-1" || m.Recipe != recipe ||
		m.Cmdline != cmdline || m.Debian.Version != "13.0" || !m.Debian.Date.Equal(testDate) || len(m.Debian.Suites) != 1 || !m.Debian.NoSecurity || len(m.Files) != 5 {
		t.Errorf("manifest %+v (%v)", m, err)
	}
	if err := o.Store.Check(img); err != nil {
		t.Error(err)
	}
	checkRoot(t, img)
	checkInitrd(t, img)
	checkSBOM(t, img)

	// The same inputs make the same bits, from the cache and without it.
	second := o
	if second.Store, err = image.Open(t.TempDir()); err != nil {
		t.Fatal(err)
	}
	second.CacheDir = t.TempDir()
	// Old downloads that cannot be cleared away are no failure.
	stuck := filepath.Join(second.CacheDir, "partial", "stuck")
	if err := os.MkdirAll(filepath.Join(stuck, "full"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Chtimes(stuck, time.Time{}, time.Now().Add(-2*keepDownloads)); err != nil {
		t.Fatal(err)
	}
	warnings = nil
	again, err := Build(context.Background(), second)
	if err != nil || again.Digest != img.Digest {
		t.Errorf("the second build differs: %v, %v", again, err)
	}
	if len(warnings) != 2 || !strings.HasPrefix(warnings[1], "pruning the download cache: ") {
		t.Errorf("warnings: %q", warnings)
	}
	// Another hyve-init makes another image.
	second.HyveInit = append(bytes.Clone(o.HyveInit), 0)
	other, err := Build(context.Background(), second)
	if err != nil || other.Digest == img.Digest || other.Manifest.Recipe == recipe {
		t.Errorf("another hyve-init: %v, %v", other, err)
	}
	if current, err := second.Store.Find("", "amd64"); err != nil || current.Digest != other.Digest {
		t.Errorf("the default is %v, %v", current, err)
	}
}

func checkRoot(t *testing.T, img *image.Image) {
	t.Helper()
	f, err := os.Open(img.Root())
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	root, err := erofs.Open(f)
	if err != nil {
		t.Fatal(err)
	}
	modules := "usr/lib/modules/" + testKernel + "/"
	for name, want := range map[string]string{
		"usr/bin/bash":                           "\x7fELFbash",
		"usr/bin/hyve-init":                      string(guestInit(t, "amd64")),
		"usr/share/doc/hyve-init/copyright":      licences,
		"etc/ssl/certs/ca-certificates.crt":      "cert A\ncert B\n",
		"usr/lib/os-release.debian":              "ID=debian\n",
		"usr/share/doc/base-files/copyright":     "licence of base-files",
		"usr/share/doc/openssh-client/copyright": "licence of openssh-client",
		"usr/bin/qemu-aarch64":                   "emulator",
		"usr/bin/scp":                            "copies",
		"home/docker/.profile":                   "# profile\n",
		modules + "kernel/net/core/xt_nat.ko":    string(testModule("nf-nat,x_tables", false)),
	} {
		if got, err := fs.ReadFile(root, name); err != nil || string(got) != want {
			t.Errorf("%s: %.60q, %v", name, got, err)
		}
	}
	for name, want := range map[string][]string{
		"usr/lib/os-release":          {"ID=boot2docker\n", "\nVERSION=1.0\n", "NAME=Boot2Docker\n"},
		modules + "modules.dep":       {"kernel/drivers/net/virtio_net.ko: kernel/drivers/net/net_failover.ko kernel/net/core/failover.ko\n", "kernel/net/core/bridge.ko:\n"},
		modules + "modules.alias":     {"alias net-pf-1-failover net_failover\n"},
		"usr/lib/modules/engine.load": {"/" + modules + "kernel/net/core/x_tables.ko\n/" + modules + "kernel/net/core/nf_nat.ko\n/" + modules + "kernel/net/core/xt_nat.ko\n"},
		"etc/passwd":                  {"docker:x:1000:50:"},
	} {
		got, err := fs.ReadFile(root, name)
		for _, w := range want {
			if err != nil || !strings.Contains(string(got), w) {
				t.Errorf("%s: no %q in %q, %v", name, w, got, err)
			}
		}
	}
	for _, gone := range []string{"usr/share/man", "usr/share/doc/base-files/README", "boot/vmlinuz-" + testKernel, "usr/share/ca-certificates",
		"etc/init.d/cron", "usr/bin/ssh", "usr/bin/qemu-alpha", "usr/bin/qemu-sparc", "usr/share/doc/qemu-user", modules + "kernel/sound", modules + "kernel/net/core/x.ko"} {
		if _, err := fs.Stat(root, gone); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s is there (%v)", gone, err)
		}
	}
	// go-erofs leaves the bits of chmod(2) in the mode as they are.
	for name, want := range map[string]uint32{
		"usr/bin/sudo": 0o4755, "usr/bin/fusermount3": 0o4755, "etc/sudoers": 0o440, "tmp": 0o1777, "etc/shadow": 0o640, "home/docker": 0o755, "root": 0o700,
	} {
		st, err := fs.Stat(root, name)
		if err != nil || uint32(st.Mode())&0o7777 != want || !st.ModTime().Equal(testDate) {
			t.Errorf("%s: %o %v, %v", name, uint32(st.Mode()), st.ModTime(), err)
			continue
		}
		sys := st.Sys().(*erofs.Stat)
		switch name {
		case "usr/bin/sudo":
			if sys.Xattrs["security.capability"] != "caps" {
				t.Errorf("%s has xattrs %q", name, sys.Xattrs)
			}
		case "home/docker":
			if sys.UID != 1000 || sys.GID != 50 {
				t.Errorf("%s belongs to %d:%d", name, sys.UID, sys.GID)
			}
		}
	}
	dep, err := fs.ReadFile(root, modules+"modules.dep.bin")
	if err != nil || !slices.Contains(readIndex(t, dep), "virtio_net=kernel/drivers/net/virtio_net.ko: kernel/drivers/net/net_failover.ko kernel/net/core/failover.ko") {
		t.Errorf("modules.dep.bin holds %q, %v", readIndex(t, dep), err)
	}
	links := root.(interface{ ReadLink(string) (string, error) })
	for name, want := range map[string]string{
		"bin": "usr/bin", "lib64": "usr/lib64", "usr/bin/hyve-docker-proxy": "hyve-init", "usr/sbin/iptables": "xtables-nft-multi",
		"etc/resolv.conf": "../run/resolv.conf", "etc/localtime": "/usr/share/zoneinfo/Etc/UTC", "usr/sbin/modprobe": "/usr/bin/busybox", "etc/os-release": "../usr/lib/os-release",
	} {
		if got, err := links.ReadLink(name); err != nil || got != want {
			t.Errorf("%s -> %q, %v", name, got, err)
		}
	}
}

// checkInitrd reads the archive as the kernel would.
func checkInitrd(t *testing.T, img *image.Image) {
	t.Helper()
	data, err := os.ReadFile(img.Initrd())
	if err != nil {
		t.Fatal(err)
	}
	files := map[string]string{}
	modes := map[string]uint32{}
	align := func(n int) int { return (n + 3) &^ 3 }
	for at := 0; ; {
		var f [13]uint32
		if len(data) < at+110 || string(data[at:at+6]) != "070701" {
			t.Fatalf("no header at %d", at)
		}
		for i := range f {
			if _, err := fmt.Sscanf(string(data[at+6+8*i:at+14+8*i]), "%08X", &f[i]); err != nil {
				t.Fatal(err)
			}
		}
		name := string(data[at+110 : at+110+int(f[11])-1])
		at = align(at + 110 + int(f[11]))
		files[name], modes[name] = string(data[at:at+int(f[6])]), f[1]
		at = align(at + int(f[6]))
		if name == "TRAILER!!!" {
			break
		}
	}
	if files["init"] != string(guestInit(t, "amd64")) || modes["init"] != 0o100755 || modes["dev/console"] != 0o020600 {
		t.Errorf("init has %d bytes, modes %v", len(files["init"]), modes)
	}
	want := "/modules/virtio_blk.ko\n/modules/erofs.ko\n/modules/overlay.ko\n/modules/failover.ko\n/modules/net_failover.ko\n" +
		"/modules/virtio_net.ko\n/modules/virtio_balloon.ko\n/modules/virtio_rng.ko\n"
	if files["modules.load"] != want {
		t.Errorf("modules.load:\n%s", files["modules.load"])
	}
	for name := range strings.SplitSeq(strings.TrimSpace(files["modules.load"]), "\n") {
		if !strings.HasPrefix(files[name[1:]], "\x7fELF") || strings.Contains(files[name[1:]], "signature") {
			t.Errorf("%s is no plain module", name)
		}
	}
}

func checkSBOM(t *testing.T, img *image.Image) {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(img.Dir, image.SBOMFile))
	if err != nil {
		t.Fatal(err)
	}
	var doc spdxDocument
	if err := json.Unmarshal(data, &doc); err != nil {
		t.Fatal(err)
	}
	if doc.SPDXVersion != "SPDX-2.3" {
		t.Errorf("version %s", doc.SPDXVersion)
	}
	contained, modules := 0, map[string]bool{}
	for _, r := range doc.Relationships {
		switch {
		case r.Type == "CONTAINS" && r.Element == "SPDXRef-image":
			contained++
		case r.Type == "STATIC_LINK" && r.Element == "SPDXRef-hyve-init":
			modules[r.Related] = true
		}
	}
	if debs := contained - len(modules) - 1; debs != len(wanted("amd64")) || contained != len(doc.Packages)-1 {
		t.Errorf("%d packages, of which the image contains %d, %d of Debian's", len(doc.Packages), contained, debs)
	}
	// Each module that is linked has its licence in the image, and a version.
	for _, p := range doc.Packages {
		if modules[p.SPDXID] && (p.VersionInfo == "" || p.Name != "stdlib" && !strings.Contains(licences, p.Name+" "+p.VersionInfo+"\n")) {
			t.Errorf("%s %s is not in the image's copyright file", p.Name, p.VersionInfo)
		}
	}
	if !modules["SPDXRef-go-stdlib"] || !modules["SPDXRef-go-go.etcd.io-bbolt"] {
		t.Errorf("linked into hyve-init: %v", modules)
	}
	ids := map[string]bool{}
	for _, p := range doc.Packages {
		if ids[p.SPDXID] {
			t.Errorf("%s twice", p.SPDXID)
		}
		ids[p.SPDXID] = true
	}
}

func TestBuildARM64(t *testing.T) {
	img, err := Build(context.Background(), testOptions(t, "arm64", nil))
	if err != nil {
		t.Fatal(err)
	}
	kernel, err := os.ReadFile(img.Kernel())
	if err != nil || string(kernel[0x38:0x3c]) != "ARMd" || img.Arch != "arm64" {
		t.Errorf("%v, %v", img, err)
	}
}

// TestConcurrentBuilds expects the second to take the first one's image.
func TestConcurrentBuilds(t *testing.T) {
	var releases atomic.Int32
	started := make(chan struct{})
	var once sync.Once
	o := testOptions(t, "amd64", func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if strings.HasSuffix(r.URL.Path, "/"+baseRelease+"/InRelease") {
				releases.Add(1)
				once.Do(func() { close(started) })
				time.Sleep(100 * time.Millisecond)
			}
			next.ServeHTTP(w, r)
		})
	})
	digests := make(chan string, 2)
	build := func() {
		img, err := Build(context.Background(), o)
		if err != nil {
			t.Error(err)
			digests <- ""
			return
		}
		digests <- img.Digest
	}
	go build()
	<-started
	go build()
	if a, b := <-digests, <-digests; a != b || releases.Load() != 1 {
		t.Errorf("digests %s and %s, %d builds", a, b, releases.Load())
	}
}

// TestFailedBuild leaves nothing behind.
func TestFailedBuild(t *testing.T) {
	o := testOptions(t, "amd64", nil)
	ctx, cancel := context.WithCancel(context.Background())
	o.Progress = func(p Progress) {
		if p.Stage == "Writing the image" {
			cancel()
		}
	}
	if _, err := Build(ctx, o); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	left, err := os.ReadDir(filepath.Join(o.Store.Dir(), "images"))
	if err != nil || len(left) != 0 {
		t.Errorf("left: %v, %v", left, err)
	}
}

// Who asks for a mirror gets it, then the environment, then apt's.
func TestMirrors(t *testing.T) {
	configured, empty := t.TempDir(), t.TempDir()
	if err := os.WriteFile(filepath.Join(configured, "sources.list"), []byte("deb http://apt.test/debian "+baseRelease+" main\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct{ explicit, env, apt, want string }{
		{"http://asked.test/debian", "http://env.test/debian", configured, "http://asked.test/debian"},
		{"", "http://env.test/debian", configured, "http://env.test/debian"},
		{"", "", configured, "http://apt.test/debian"},
		{"", "", empty, debian.DefaultMirror().Archive},
	} {
		t.Setenv("HYVE_MIRROR", tt.env)
		got, err := mirrors(tt.explicit, tt.apt)
		if err != nil || len(got) != 1 || got[0].Archive != tt.want {
			t.Errorf("asked %q, environment %q: %v, %v; want %s", tt.explicit, tt.env, got, err, tt.want)
		}
	}
	t.Setenv("HYVE_MIRROR", "nonsense")
	if _, err := mirrors("", configured); err == nil {
		t.Error("nonsense in the environment was passed over")
	}
}

func TestHints(t *testing.T) {
	store, err := image.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := hyveInit("nowhere"); err == nil || !strings.Contains(err.Error(), "without the guest's hyve-init") {
		t.Errorf("no payload: %v", err)
	} else {
		wantHint(t, err, "make build")
	}
	full := explain(fmt.Errorf("writing: %w", &fs.PathError{Op: "write", Path: "/x", Err: syscall.ENOSPC}))
	wantHint(t, full, "1200 MB")
	wantHint(t, checkSpace(t.TempDir(), 1<<60), "free some space")
	if _, err := Build(context.Background(), Options{Store: store, Arch: "riscv64", HyveInit: []byte("x")}); err == nil {
		t.Error("riscv64 was taken")
	}
	_, err = Build(context.Background(), Options{Store: store, Arch: "amd64", HyveInit: []byte("x"), Mirror: "nonsense"})
	wantHint(t, err, debian.DefaultMirror().Archive)
}

func wantHint(t *testing.T, err error, want string) {
	t.Helper()
	var h interface{ Hint() string }
	if !errors.As(err, &h) || !strings.Contains(h.Hint(), want) {
		t.Errorf("%v: no hint with %q", err, want)
	}
}

func TestBootKernel(t *testing.T) {
	elf := elfFile(pvhNote, ".text", []byte("code"))
	good := zstdPayload(t, elf)
	swap := func(b []byte, magic string) []byte { return append([]byte(magic), b[len(magic):]...) }
	short := bytes.Clone(good)
	short[len(short)-4]++
	for _, tc := range []struct {
		name, arch string
		vmlinuz    []byte
		want       string // error; "" for none
	}{
		{"zstd", "amd64", bzImage(good), ""},
		{"no PVH note", "amd64", bzImage(zstdPayload(t, elfFile(bytes.Replace(pvhNote, []byte{0x12}, []byte{0x11}, 1), ".text", nil))), "no PVH entry"},
		{"lz4", "amd64", bzImage(swap(good, "\x02\x21\x4c\x18")), "compressed with lz4, which is not supported"},
		{"xz", "amd64", bzImage(swap(good, "\xfd7zXZ\x00")), "compressed with xz"},
		{"wrong size", "amd64", bzImage(short), "does not unpack to"},
		{"no kernel", "amd64", []byte("MZ"), "no bzImage"},
		{"cut", "amd64", bzImage(good)[:1100], "outside the file"},
		{"arm64 compressed", "arm64", bzImage(good), "no uncompressed arm64 Image"},
	} {
		got, err := bootKernel(tc.arch, tc.vmlinuz)
		switch {
		case tc.want == "" && (err != nil || !bytes.Equal(got, elf)):
			t.Errorf("%s: %v", tc.name, err)
		case tc.want != "" && (err == nil || !strings.Contains(err.Error(), tc.want)):
			t.Errorf("%s: got %v, want %q", tc.name, err, tc.want)
		}
	}
}

func TestDropped(t *testing.T) {
	for name, want := range map[string]bool{
		"usr/share/doc/x/copyright": false, "usr/share/doc/x": false, "usr/share/doc/x/README": true, "usr/share/doc/x/examples/copyright": true,
		"usr/share/man/man1/x.1.gz": true, "usr/share/manual": false, "usr/lib/systemd/system/x.service": true,
		"etc/cron.daily/x": true, "usr/bin/containerd-shim-runc-v1": true, "usr/bin/containerd-shim-runc-v2": false,
	} {
		if isDropped(name) != want {
			t.Errorf("%s: %v", name, !want)
		}
	}
	for name, want := range map[string]bool{
		"net/netfilter/xt_nat.ko.xz": false, "net/netfilter/ipvs/ip_vs.ko.xz": false, "fs/xfs/xfs.ko.xz": true, "drivers/md/dm-mod.ko.xz": false,
		"crypto/tcrypt.ko.xz": true, "fs/nls/nls_utf8.ko.xz": false, "fs/nls/nls_cp437.ko.xz": false, "fs/nls/nls_cp949.ko.xz": true,
		"drivers/net/ethernet/x/x.ko.xz": true, "drivers/net/tun.ko": false,
	} {
		if got := droppedModule("usr/lib/modules/6.1/kernel/" + name); got != want {
			t.Errorf("%s: %v", name, got)
		}
	}
}

func FuzzKernel(f *testing.F) {
	f.Add(bzImage(zstdPayload(f, elfFile(pvhNote, ".text", []byte("code")))))
	f.Fuzz(func(t *testing.T, data []byte) {
		if k, err := bootKernel("amd64", data); err == nil && !bytes.HasPrefix(k, []byte("\x7fELF")) {
			t.Error("no ELF file")
		}
	})
}

func FuzzModule(f *testing.F) {
	f.Add(testModule("a,b", true))
	f.Fuzz(func(t *testing.T, data []byte) {
		ko := unsigned(data)
		if !bytes.HasPrefix(data, ko) {
			t.Error("it is not what came before the signature")
		}
		_, _ = readModule("x.ko", &node{data: bytes.NewReader(ko), size: int64(len(ko))})
	})
}
