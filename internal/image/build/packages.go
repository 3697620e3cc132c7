package build

// wanted are the packages that an image is made from; what they depend on comes
// with them.
func wanted(arch string) []string {
	return []string{
		"linux-image-cloud-" + arch,

		// The engine.
		"docker.io",
		"containerd",
		"runc",          // BuildKit uses it
		"crun",          // dockerd does, see internal/guest/engine/config.go
		"iptables",      // its nft variant
		"pigz",          // dockerd unpacks layers with unpigz where it finds it, in parallel
		"xz-utils",      // dockerd unpacks .xz archives with it
		"docker-cli",    // for users of `hyve ssh`
		"docker-buildx", // the same; without it `docker build` is the deprecated builder
		"ca-certificates",
		"qemu-user", // programs of other architectures; see only

		// What hyve-init runs.
		"e2fsprogs",
		"mount",
		"util-linux",
		"busybox-static",

		// What people and docker-machine's provisioner expect behind `ssh`.
		"base-files",
		"bash",
		"coreutils",
		"dash",
		"diffutils",
		"findutils",
		"fuse3", // fusermount3, for file systems of users'
		"grep",
		"gzip",
		"hostname",
		"iproute2",
		"mawk",
		"openssh-sftp-server", // scp and sftp
		"rsync",               // docker-machine scp --delta
		"procps",
		"sed",
		"sudo",
		"tar",
		"tzdata",
	}
}

// only says for a package of which next to nothing is wanted what that is, in the order
// of the package, which is read no further: it holds half a gigabyte.
func only(arch string) map[string][]string {
	emulators := map[string][]string{
		"amd64": {"usr/bin/qemu-aarch64", "usr/bin/qemu-arm"},
		"arm64": {"usr/bin/qemu-arm", "usr/bin/qemu-x86_64"},
	}
	return map[string][]string{"qemu-user": emulators[arch]}
}

// copyrightOf are packages that are not read as far as their copyright file, with
// one of the same source package that has the same file.
var copyrightOf = map[string]string{"qemu-user": "qemu-guest-agent"}

// partly are packages of which the image holds the copyright file, because that of a
// package in the image is a link to it, and these files, without what the package
// depends on.
var partly = map[string][]string{
	// openssh-sftp-server's. scp needs nothing but libc; without it `scp -O` finds nobody
	// to speak to.
	"openssh-client":   {"usr/bin/scp"},
	"qemu-guest-agent": nil, // qemu-user's
}

// never are packages that are left out although something depends on them, with
// the reason.
var never = map[string]string{
	"adduser":                     "maintainer scripts only; users come from system.go",
	"apparmor":                    "AppArmor is switched off, see cmdline",
	"base-passwd":                 "maintainer scripts only; users come from system.go",
	"cdebconf":                    "debconf's other implementation",
	"debconf":                     "maintainer scripts only; drags in perl",
	"dpkg":                        "maintainer scripts only; the guest is rebuilt, not upgraded",
	"init-system-helpers":         "maintainer scripts only; PID 1 is hyve-init",
	"initramfs-tools":             "the initrd is ours",
	"install-info":                "maintainer scripts only",
	"kmod":                        "busybox has modprobe; kmod drags libcrypto into each run of it",
	"libcap2-bin":                 "iproute2 wants it for a maintainer script",
	"libdb5.3t64":                 "only arpd, which is dropped, needs it",
	"linux-base":                  "maintainer scripts only",
	"linux-initramfs-tool":        "the initrd is ours",
	"logsave":                     "only e2fsprogs' init scripts use it",
	"openssh-client":              "the sftp server needs nothing of it; see partly",
	"openssl":                     "ca-certificates wants it for c_rehash; Go reads the bundle",
	"openssl-provider-legacy":     "nothing in the guest uses legacy ciphers",
	"systemd":                     "PID 1 is hyve-init",
	"systemd-standalone-sysusers": "users come from system.go",
	"systemd-sysv":                "PID 1 is hyve-init",
	"sysvinit-utils":              "only docker.io's init script uses it",
}

// cmdline is what the image wants on the kernel's command line. AppArmor confines nobody
// without a parser for its profiles, which takes longer to load one than dockerd takes to
// start under emulation; and where the kernel has it, docker says that it confines. Without
// it Debian's kernel takes SELinux, whose hooks are called in every system call and find no
// policy: lsm has Debian's modules but those two.
const cmdline = "apparmor=0 lsm=landlock,lockdown,yama,bpf"
