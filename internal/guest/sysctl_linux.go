package guest

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// sysctls are what containers and people's tools need beyond the kernel's
// defaults.
var sysctls = [][2]string{
	{"net.ipv4.ip_forward", "1"},
	{"net.ipv6.conf.all.forwarding", "1"},
	{"net.ipv4.ip_nonlocal_bind", "1"},            // dockerd 28 binds published ports, to addresses of the host
	{"net.ipv6.ip_nonlocal_bind", "1"},            //
	{"net.ipv4.ping_group_range", "0 2147483647"}, // ping without a capability
	{"net.ipv4.ip_unprivileged_port_start", "0"},  // a VM of one user
	{"net.ipv4.conf.all.arp_notify", "1"},         // neighbours learn at once of a new hardware address
	{"net.core.somaxconn", "4096"},                // databases ask for more than 128
	{"net.ipv4.neigh.default.gc_thresh3", "8192"}, // many containers on one bridge
	{"fs.inotify.max_user_instances", "8192"},     // file watchers in containers
	{"fs.inotify.max_user_watches", "1048576"},    //
	{"fs.file-max", "9223372036854775807"},        // as systemd sets it
	{"fs.aio-max-nr", "1048576"},                  // several databases
	{"fs.protected_hardlinks", "1"},               // as systemd sets it
	{"fs.protected_symlinks", "1"},                //
	{"vm.max_map_count", "262144"},                // elasticsearch refuses less
	{"kernel.pid_max", "4194304"},                 //
	{"kernel.threads-max", "524288"},              //
	{"kernel.keys.maxkeys", "20000"},              // a keyring a container
	{"kernel.keys.root_maxkeys", "1000000"},       //
	{"kernel.core_pattern", "core"},               //
	{"kernel.panic", "1"},                         // a panic ends the VM, whatever the command line
	{"net.netfilter.nf_conntrack_max", "262144"},  // once the module is in
	{"net.bridge.bridge-nf-call-iptables", "1"},   // once br_netfilter is in
	{"net.bridge.bridge-nf-call-ip6tables", "1"},  //
}

// setSysctls sets what the kernel has and returns what it refused. It is called
// again once modules that bring more of them are in.
func setSysctls() error {
	var errs []error
	for _, s := range sysctls {
		path := "/proc/sys/" + strings.ReplaceAll(s[0], ".", "/")
		err := os.WriteFile(path, []byte(s[1]), 0)
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			errs = append(errs, fmt.Errorf("setting %s: %w", s[0], err))
		}
	}
	return errors.Join(errs...)
}

// raiseLimits sets the resource limits of PID 1, which its services inherit.
func raiseLimits() error {
	var errs []error
	for _, l := range []struct {
		name     string
		resource int
		cur, max uint64
	}{
		// Set by syscall, not by x/sys: Go would restore the bound that it found at
		// its own start in every child otherwise.
		{"nofile", unix.RLIMIT_NOFILE, 1 << 20, 1 << 20},
		{"nproc", unix.RLIMIT_NPROC, unix.RLIM_INFINITY, unix.RLIM_INFINITY},
		{"memlock", unix.RLIMIT_MEMLOCK, unix.RLIM_INFINITY, unix.RLIM_INFINITY},
		{"core", unix.RLIMIT_CORE, 0, unix.RLIM_INFINITY},
	} {
		if err := syscall.Setrlimit(l.resource, &syscall.Rlimit{Cur: l.cur, Max: l.max}); err != nil {
			errs = append(errs, fmt.Errorf("setting the limit %s: %w", l.name, err))
		}
	}
	return errors.Join(errs...)
}
