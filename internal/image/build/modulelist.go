package build

import (
	"path"
	"strings"
)

// initrdModules are loaded before the root is mounted: what the root and the
// network card need, and what cannot wait. Their dependencies come with them.
var initrdModules = []string{
	"virtio_blk",
	"erofs",
	"overlay",
	"virtio_net",
	"virtio_balloon", // returns freed memory to the host
	"virtio_rng",
}

// engineModules are loaded in the background before dockerd starts, so that it
// finds everything in place which it would otherwise load one by one, each with
// a run of modprobe.
var engineModules = []string{
	"bridge",
	"veth",
	"br_netfilter",
	"nf_tables",
	"nft_compat",
	"nft_chain_nat",
	"nf_conntrack_netlink",
	"xt_MASQUERADE",
	"xt_addrtype",
	"xt_conntrack",
	"xt_nat",
	"xt_tcpudp",
	"xfrm_user",   // dockerd opens a NETLINK_XFRM socket to see whether it could encrypt overlays
	"binfmt_misc", // hyve-init mounts it
	// The old iptables ask by a socket option, for which the kernel looks for no module;
	// their tables and matches are found when they are asked for.
	"ip_tables",
	"ip6_tables",
	"arp_tables",
	"ebtables",
}

// keptModules are the modules of the root, as path.Match patterns below
// kernel/; one that names a directory keeps all below it. What they depend on
// has to be kept as well, else they are left out with a warning.
var keptModules = []string{
	// Ciphers, checksums and compression, which containers reach by AF_ALG,
	// WireGuard, IPsec, dm-crypt, NFS and the file systems below.
	"crypto", "arch/*/crypto", "arch/*/lib", "lib",

	// Disks, and what is built on them.
	"block", "mm",
	"drivers/block/brd.ko", "drivers/block/loop.ko", "drivers/block/nbd.ko", "drivers/block/ublk_drv.ko",
	"drivers/block/virtio_blk.ko", "drivers/block/zram",
	"drivers/md/dm-*.ko", "drivers/md/dm-vdo", "drivers/md/md-mod.ko", "drivers/md/persistent-data", "drivers/md/raid*.ko",
	"drivers/cdrom", "drivers/scsi/scsi_common.ko", "drivers/scsi/scsi_mod.ko", "drivers/scsi/sd_mod.ko",
	"drivers/scsi/sg.ko", "drivers/scsi/sr_mod.ko", "drivers/scsi/virtio_scsi.ko",
	"drivers/nvdimm/libnvdimm.ko", "drivers/nvdimm/nd_virtio.ko", "drivers/nvdimm/virtio_pmem.ko",

	// The virtual machine's other devices.
	"drivers/virtio", "drivers/char/hw_random/virtio-rng.ko", "drivers/firmware/qemu_fw_cfg.ko", "drivers/ptp",
	"drivers/acpi/button.ko", "drivers/input/evdev.ko", "drivers/misc/pvpanic", "drivers/vhost",
	"drivers/pps", "drivers/rtc", "drivers/iommu/virtio-iommu.ko", "drivers/gpio/gpio-pl061.ko", "drivers/input/keyboard/gpio_keys.ko",
	"arch/*/kvm", "virt", // for virtual machines in containers, where the host nests

	// Networks of containers.
	"drivers/net/bonding", "drivers/net/dummy.ko", "drivers/net/geneve.ko", "drivers/net/ifb.ko", "drivers/net/ipvlan",
	"drivers/net/macsec.ko", "drivers/net/macvlan.ko", "drivers/net/macvtap.ko", "drivers/net/net_failover.ko",
	"drivers/net/nlmon.ko", "drivers/net/tap.ko", "drivers/net/tun.ko", "drivers/net/veth.ko", "drivers/net/virtio_net.ko",
	"drivers/net/vrf.ko", "drivers/net/vsockmon.ko", "drivers/net/vxlan", "drivers/net/wireguard",
	"net/802", "net/8021q", "net/bridge", "net/core", "net/dns_resolver", "net/ipv4", "net/ipv6", "net/ife", "net/key",
	"net/l2tp", "net/llc", "net/mpls", "net/mptcp", "net/netfilter", "net/netlink", "net/nsh", "net/openvswitch",
	"net/packet", "net/psample", "net/sched", "net/sctp", "net/tls", "net/unix", "net/xdp", "net/xfrm",
	"net/vmw_vsock/vmw_vsock_virtio_*", "net/vmw_vsock/vsock*",
	"net/sunrpc/sunrpc.ko", "net/sunrpc/auth_gss",

	// File systems that volumes are mounted from, and those of disk images.
	"fs/autofs", "fs/binfmt_misc.ko", "fs/cachefiles", "fs/configfs", "fs/erofs", "fs/exfat", "fs/fat", "fs/fuse",
	"fs/isofs", "fs/lockd", "fs/netfs", "fs/nfs", "fs/nfs_common", "fs/nfsd", "fs/nls", "fs/overlayfs", "fs/quota",
	"fs/smb/client", "fs/smb/common", "fs/squashfs", "fs/udf",
}

// unkeptModules are exceptions from keptModules.
var unkeptModules = []string{
	"crypto/tcrypt.ko", // the test bench
	"lib/*-error-inject.ko", "lib/test_*", "mm/hwpoison-inject.ko",
	"net/core/drop_monitor.ko", "net/core/pktgen.ko", "net/core/selftests.ko",
	"drivers/vhost/vhost_scsi.ko", "drivers/vhost/vhost_vdpa.ko", "drivers/virtio/virtio_vdpa.ko",
	"drivers/ptp/ptp_vmw.ko", "drivers/rtc/rtc-mt*.ko",
	"fs/nls/mac-*.ko", "fs/nls/nls_cp[^48]*.ko", "fs/nls/nls_cp8[^5]*.ko", "fs/nls/nls_euc-jp.ko", "fs/nls/nls_koi8-*.ko",
}

// droppedModule says whether name is a kernel module that the root does not
// get. Paths are those of packages: usr/lib/modules/VERSION/kernel/….
func droppedModule(name string) bool {
	rest, ok := strings.CutPrefix(name, "usr/lib/modules/")
	if !ok {
		return false
	}
	_, rest, _ = strings.Cut(rest, "/")
	rest, ok = strings.CutPrefix(rest, "kernel/")
	if !ok || !strings.Contains(path.Base(rest), ".ko") {
		return false
	}
	rest = strings.TrimSuffix(rest, ".xz")
	return !matchesAny(keptModules, rest) || matchesAny(unkeptModules, rest)
}

// matchesAny says whether a pattern matches name or a directory above it.
func matchesAny(patterns []string, name string) bool {
	for _, p := range patterns {
		head := name
		if n := strings.Count(p, "/") + 1; strings.Count(name, "/")+1 > n {
			head = strings.Join(strings.SplitN(name, "/", n+1)[:n], "/")
		}
		if ok, err := path.Match(p, head); ok && err == nil {
			return true
		}
	}
	return false
}
