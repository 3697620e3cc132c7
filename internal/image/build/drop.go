package build

import "strings"

// dropped are files and directories of packages that a guest does not need.
// Patterns are path.Match's, of paths without a leading slash; one that names a
// directory drops all below it.
var dropped = []string{
	// Documentation and translations. Copyright files stay: licences require
	// them.
	"usr/share/bash-completion", "usr/share/doc-base", "usr/share/fish", "usr/share/gcc", "usr/share/info",
	"usr/share/lintian", "usr/share/locale", "usr/share/man", "usr/share/menu", "usr/share/zsh", "usr/share/bug",
	"usr/include", "usr/games", "usr/share/applications", "usr/share/icons", "usr/share/pixmaps", "usr/share/apport",
	"usr/share/gdb", "usr/share/polkit-1", "usr/share/perl5", "usr/lib/*/perl5", "usr/lib/*/gconv", "usr/lib/*/security/pam_userdb.so", // (needs libdb)

	// Other init systems, and services that hyve-init starts itself.
	"usr/lib/systemd", "usr/lib/sysctl.d", "usr/lib/sysusers.d", "usr/lib/tmpfiles.d", "usr/lib/udev", "usr/lib/init",
	"usr/lib/lsb", "etc/init.d", "etc/rc?.d", "etc/cron*", "etc/logrotate.d", "etc/update-motd.d", "etc/apparmor.d",
	"etc/default", "etc/containerd", "etc/apt", "etc/dpkg", "etc/kernel", "etc/insserv*", "etc/ca-certificates*",
	"usr/share/initramfs-tools", "usr/share/bug", "usr/lib/dpkg", "var/lib/dpkg", "var/lib/systemd", "usr/lib/pcrlock.d",

	// What only maintainer scripts use.
	"usr/share/debianutils", "usr/share/pam-configs", "usr/share/base-files",
	"usr/share/docker.io", "usr/share/libc-bin", "usr/lib/linux", "usr/share/linux*", "usr/sbin/pam-auth-update",
	"usr/sbin/pam_getenv", "usr/sbin/update-ca-certificates", "usr/sbin/*-shell", "usr/sbin/update-shells",
	"usr/sbin/installkernel", "usr/sbin/ip*tables-apply", "etc/rmt", "usr/bin/savelog", "usr/bin/ischroot", "usr/bin/tempfile",

	// Large, and unused: containerd's older shims and its stress test, arpd
	// (which would need libdb), the sudo log server, e2scrub.
	"usr/bin/containerd-shim", "usr/bin/containerd-shim-runc-v1", "usr/bin/containerd-stress", "usr/sbin/arpd",
	"usr/sbin/sudo_logsrvd", "usr/sbin/sudo_sendlog", "usr/bin/cvtsudoers", "usr/bin/sudoreplay", "etc/sudo_logsrvd.conf",
	"usr/sbin/e2scrub*", "usr/lib/*/e2fsprogs", "etc/e2scrub.conf", "usr/sbin/mkfs.cramfs", "usr/sbin/mkfs.minix",
	"usr/sbin/fsck.cramfs", "usr/sbin/fsck.minix", "usr/sbin/mkfs.bfs", "usr/bin/perf",
	"usr/bin/dockerd-rootless*", "usr/bin/rootlesskit*",

	// What containerd and runc build for others: a fork of the shim, tests' helpers.
	"usr/lib/containerd", "usr/lib/cni", "usr/sbin/fs-idmap", "usr/sbin/pidfd-kill", "usr/sbin/recvtty",
	"usr/sbin/remap-rootfs", "usr/sbin/sd-helper", "usr/sbin/seccompagent",
}

// isDropped says whether a package's file stays out of the root.
func isDropped(name string) bool {
	if rest, ok := strings.CutPrefix(name, "usr/share/doc/"); ok {
		pkg, file, deeper := strings.Cut(rest, "/")
		return deeper && file != "copyright" || pkg == ""
	}
	return matchesAny(dropped, name)
}
