package build

import (
	"bytes"
	"fmt"
	"io/fs"
	"path"
	"strings"
	"time"
)

// A staticFile is a file of the root that no package brings: what maintainer
// scripts, an installer or an administrator would have written.
type staticFile struct {
	name     string
	mode     uint32
	uid, gid int
	content  string // of a regular file
	link     string // target, for a symlink
	dir      bool
}

// Users and groups that the guest's files belong to. Numbers are Debian's
// (base-passwd), and boot2docker's for docker and staff.
const (
	dockerUID = 1000
	staffGID  = 50
	dockerGID = 101
)

const passwd = `root:x:0:0:root:/root:/bin/bash
daemon:x:1:1:daemon:/usr/sbin:/usr/sbin/nologin
bin:x:2:2:bin:/bin:/usr/sbin/nologin
sys:x:3:3:sys:/dev:/usr/sbin/nologin
www-data:x:33:33:www-data:/var/www:/usr/sbin/nologin
dockremap:x:100:102::/nonexistent:/usr/sbin/nologin
docker:x:1000:50:Docker:/home/docker:/bin/bash
nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin
`

// No password, and none can be used: root is entered by sudo, docker by key.
const shadow = `root:*:19000:0:99999:7:::
daemon:*:19000:0:99999:7:::
bin:*:19000:0:99999:7:::
sys:*:19000:0:99999:7:::
www-data:*:19000:0:99999:7:::
dockremap:!:19000:0:99999:7:::
docker:*:19000:0:99999:7:::
nobody:*:19000:0:99999:7:::
`

const group = `root:x:0:
daemon:x:1:
bin:x:2:
sys:x:3:
adm:x:4:
tty:x:5:
disk:x:6:
kmem:x:15:
dialout:x:20:
cdrom:x:24:
sudo:x:27:docker
audio:x:29:
www-data:x:33:
shadow:x:42:
utmp:x:43:
video:x:44:
staff:x:50:
users:x:100:
docker:x:101:docker
dockremap:x:102:
kvm:x:103:
input:x:104:
nogroup:x:65534:
`

const profile = `# The guest's root is made anew at each boot; what shall stay goes to
# /var/lib/boot2docker (bootsync.sh, bootlocal.sh, profile).
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
if [ "${BASH-}" ]; then
	PS1='\u@\h:\w\$ '
fi
for i in /etc/profile.d/*.sh; do
	if [ -r "$i" ]; then . "$i"; fi
done
unset i
`

// staticFiles is the one list of what maintainer scripts would do, and of what
// makes Debian's packages a Docker host.
func staticFiles() []staticFile {
	pam := func(lines ...string) string { return strings.Join(lines, "\n") + "\n" }
	return []staticFile{
		// base-passwd, adduser
		{name: "etc/passwd", mode: 0o644, content: passwd},
		{name: "etc/shadow", mode: 0o640, gid: 42, content: shadow},
		{name: "etc/group", mode: 0o644, content: group},
		{name: "etc/gshadow", mode: 0o640, gid: 42},
		{name: "etc/subuid", mode: 0o644, content: "dockremap:165536:65536\n"},
		{name: "etc/subgid", mode: 0o644, content: "dockremap:165536:65536\n"},
		{name: "root", mode: 0o700, dir: true},
		{name: "home/docker", mode: 0o755, uid: dockerUID, gid: staffGID, dir: true},
		{name: "etc/shells", mode: 0o644, content: "/bin/sh\n/bin/bash\n/bin/dash\n"},

		// sudo
		{name: "etc/sudoers.d/docker", mode: 0o440, content: "docker ALL=(ALL:ALL) NOPASSWD: ALL\n"},

		// libpam-runtime: pam-auth-update's files. There are no passwords.
		{name: "etc/pam.d/common-auth", mode: 0o644, content: pam("auth required pam_unix.so")},
		{name: "etc/pam.d/common-account", mode: 0o644, content: pam("account required pam_unix.so")},
		{name: "etc/pam.d/common-password", mode: 0o644, content: pam("password required pam_unix.so yescrypt")},
		{name: "etc/pam.d/common-session", mode: 0o644, content: pam("session required pam_unix.so")},
		{name: "etc/pam.d/common-session-noninteractive", mode: 0o644, content: pam("session required pam_unix.so")},

		// libc6, base-files
		{name: "etc/nsswitch.conf", mode: 0o644, content: "passwd: files\ngroup: files\nshadow: files\nhosts: files dns\n" +
			"networks: files\nprotocols: files\nservices: files\nethers: files\nrpc: files\n"},
		{name: "etc/host.conf", mode: 0o644, content: "multi on\n"},
		{name: "etc/hosts", mode: 0o644, content: "127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n"},
		{name: "etc/hostname", mode: 0o644, content: "hyve\n"},
		{name: "etc/machine-id", mode: 0o444},
		{name: "etc/profile", mode: 0o644, content: profile},
		{name: "etc/bash.bashrc", mode: 0o644, content: "case $- in *i*) PS1='\\u@\\h:\\w\\$ ' ;; esac\n"},
		{name: "etc/motd", mode: 0o644},
		{name: "etc/ld.so.conf", mode: 0o644}, // libraries are in the linker's own path
		{name: "etc/mtab", link: "../proc/self/mounts"},
		// hyve-init writes it when it knows the network.
		{name: "etc/resolv.conf", link: "../run/resolv.conf"},

		// dash, mawk, iptables: alternatives. The nft variant is what the
		// kernel's own tables are; mixing both would confuse dockerd.
		{name: "usr/bin/sh", link: "dash"},
		{name: "usr/bin/awk", link: "mawk"},
		{name: "usr/sbin/iptables", link: "xtables-nft-multi"},
		{name: "usr/sbin/iptables-save", link: "xtables-nft-multi"},
		{name: "usr/sbin/iptables-restore", link: "xtables-nft-multi"},
		{name: "usr/sbin/ip6tables", link: "xtables-nft-multi"},
		{name: "usr/sbin/ip6tables-save", link: "xtables-nft-multi"},
		{name: "usr/sbin/ip6tables-restore", link: "xtables-nft-multi"},

		// tzdata, for containers that share them; the host's zone takes their place.
		{name: "etc/localtime", link: "/usr/share/zoneinfo/Etc/UTC"},
		{name: "etc/timezone", mode: 0o644, content: "Etc/UTC\n"},

		// hyve
		{name: "usr/share/doc/hyve-init/copyright", mode: 0o644, content: licences},
		{name: "usr/bin/hyve-docker-proxy", link: "hyve-init"},
		{name: "usr/lib/hyve/foreign", link: "../../bin/hyve-init"}, // runs for programs that cannot be run
		// Commands that ask PID 1, which tells them by their names.
		{name: "usr/sbin/poweroff", link: "../bin/hyve-init"},
		{name: "usr/sbin/halt", link: "../bin/hyve-init"},
		{name: "usr/sbin/reboot", link: "../bin/hyve-init"},
		{name: "usr/sbin/shutdown", link: "../bin/hyve-init"},
		{name: "usr/bin/sethostname", link: "hyve-init"},
		{name: "etc/init.d/docker", link: "../../usr/bin/hyve-init"},
		{name: "usr/bin/dockerd", link: "../sbin/dockerd"}, // where Docker's own packages have it
		{name: "etc/docker", mode: 0o755, dir: true},

		// Mount points, and directories that services make files in.
		{name: "dev", mode: 0o755, dir: true},
		{name: "proc", mode: 0o555, dir: true},
		{name: "sys", mode: 0o555, dir: true},
		{name: "run", mode: 0o755, dir: true},
		{name: "tmp", mode: 0o1777, dir: true},
		{name: "mnt/data", mode: 0o755, dir: true},
		{name: "media", mode: 0o755, dir: true},
		{name: "opt", mode: 0o755, dir: true},
		{name: "srv", mode: 0o755, dir: true},
		{name: "usr/local/bin", mode: 0o755, dir: true},
		{name: "usr/local/sbin", mode: 0o755, dir: true},
		{name: "usr/local/lib", mode: 0o755, dir: true},
		{name: "var/cache", mode: 0o755, dir: true},
		{name: "var/log", mode: 0o755, dir: true},
		{name: "var/spool", mode: 0o755, dir: true},
		{name: "var/tmp", mode: 0o1777, dir: true},
		{name: "var/run", link: "../run"},
		{name: "var/lock", link: "../run/lock"},
		{name: "var/lib/docker", mode: 0o710, dir: true},
		{name: "var/lib/containerd", mode: 0o711, dir: true},
		{name: "var/lib/boot2docker", mode: 0o755, dir: true},
		{name: "var/lib/sudo/lectured", mode: 0o700, dir: true},
		{name: "var/lib/cni", mode: 0o755, dir: true},
	}
}

// setuid are programs that packages' maintainer scripts give to root's rights.
var setuid = []string{"usr/bin/fusermount3"}

// busyboxLinks are commands that busybox stands in for where no package brings
// them.
var busyboxLinks = []string{
	"usr/sbin/modprobe", // the kernel runs this one, at /sbin/modprobe
	"usr/sbin/insmod", "usr/sbin/rmmod", "usr/sbin/lsmod", "usr/sbin/modinfo", "usr/sbin/depmod",
	"usr/bin/netstat", // docker-machine's provisioner
	"usr/bin/less", "usr/bin/vi", "usr/bin/wget", "usr/bin/ping", "usr/bin/ping6", "usr/bin/traceroute", "usr/bin/nc",
	"usr/bin/nslookup", "usr/bin/telnet", "usr/bin/clear", "usr/bin/reset", "usr/bin/hexdump", "usr/bin/xxd",
	"usr/bin/which", "usr/bin/time", "usr/bin/cpio", "usr/bin/bzip2", "usr/bin/bunzip2", "usr/bin/bzcat", "usr/bin/unzip",
	"usr/bin/killall", "usr/bin/strings", "usr/bin/ts",
	"usr/sbin/arp", "usr/sbin/arping", "usr/sbin/brctl", "usr/sbin/ifconfig", "usr/sbin/route", "usr/sbin/udhcpc",
	"usr/sbin/nologin",
}

// addSystem puts everything into the tree that packages do not bring.
func addSystem(t *tree, init []byte, date time.Time, version string) error {
	for _, f := range staticFiles() {
		n := file(f.mode, []byte(f.content))
		switch {
		case f.dir:
			n = dir(f.mode)
		case f.link != "":
			t.remove(f.name) // a directory of a package gives way
			n = symlink(f.link)
		}
		n.uid, n.gid = f.uid, f.gid
		if err := t.put(f.name, n); err != nil {
			return err
		}
	}
	if sudoers := t.get("etc/sudoers"); sudoers != nil {
		sudoers.mode = 0o440 // as sudo's maintainer script does
	}
	for _, name := range setuid {
		if n := t.get(name); n != nil {
			n.mode = 0o4755
		}
	}
	if err := t.put("usr/bin/hyve-init", file(0o755, init)); err != nil {
		return err
	}
	if err := addHome(t); err != nil {
		return err
	}
	if err := addBusybox(t); err != nil {
		return err
	}
	if err := addCABundle(t); err != nil {
		return err
	}
	return addOSRelease(t, date, version)
}

// addHome gives user docker the files that adduser would.
func addHome(t *tree) error {
	skel := t.get("etc/skel")
	if skel == nil {
		return nil
	}
	for _, name := range skel.names() {
		n := *skel.children[name]
		n.uid, n.gid = dockerUID, staffGID
		if err := t.put("home/docker/"+name, &n); err != nil {
			return err
		}
	}
	return nil
}

// addBusybox links commands to busybox that no package brings.
func addBusybox(t *tree) error {
	const applets = "usr/bin/busybox"
	program, err := t.read(applets)
	if err != nil {
		return err
	}
	for _, name := range busyboxLinks {
		base := path.Base(name)
		if t.get("usr/bin/"+base) != nil || t.get("usr/sbin/"+base) != nil {
			continue
		}
		// The names of busybox's applets stand in it one after the other.
		if !bytes.Contains(program, []byte("\x00"+base+"\x00")) {
			return fmt.Errorf("busybox has no %s", base)
		}
		if err := t.put(name, symlink("/"+applets)); err != nil {
			return err
		}
	}
	return nil
}

// addCABundle does what update-ca-certificates does for programs that read one
// bundle, as Go's do. The certificates themselves are dropped from
// usr/share/ca-certificates.
func addCABundle(t *tree) error {
	const from = "usr/share/ca-certificates"
	top := t.get(from)
	if top == nil {
		return fmt.Errorf("the packages have no certificates in %s", from)
	}
	var bundle bytes.Buffer
	err := (&tree{root: top}).walk(func(name string, n *node) error {
		if n.typ != 0 || !strings.HasSuffix(name, ".crt") {
			return nil
		}
		pem, err := (&tree{root: top}).read(name)
		if err != nil {
			return err
		}
		bundle.Write(bytes.TrimSpace(pem))
		bundle.WriteByte('\n')
		return nil
	})
	if err != nil {
		return err
	}
	if bundle.Len() == 0 {
		return fmt.Errorf("the packages have no certificates in %s", from)
	}
	t.remove(from)
	return t.put("etc/ssl/certs/ca-certificates.crt", file(0o644, bundle.Bytes()))
}

// addOSRelease makes the guest present itself as boot2docker, which is what
// docker-machine's provisioner takes for a host without package manager and
// systemd. Debian's own file stays beside.
func addOSRelease(t *tree, date time.Time, version string) error {
	const own, kept = "usr/lib/os-release", "usr/lib/os-release.debian"
	debian := t.get(own)
	if debian == nil || debian.typ != 0 {
		return fmt.Errorf("the packages have no file %s", own)
	}
	if err := t.put(kept, debian); err != nil {
		return err
	}
	text := fmt.Sprintf(`NAME=Boot2Docker
ID=boot2docker
ID_LIKE=debian
VERSION=%s
VERSION_ID=%s
PRETTY_NAME="hyve guest, Docker %s (Debian %s)"
BUILD_ID=%s
`, version, version, version, baseRelease, date.UTC().Format("20060102"))
	if err := t.put(own, file(0o644, []byte(text))); err != nil {
		return err
	}
	return t.put("etc/os-release", &node{typ: fs.ModeSymlink, mode: 0o777, link: "../usr/lib/os-release"})
}
