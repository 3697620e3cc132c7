package e2e

import (
	"strings"
	"testing"
)

// What boot2docker's users and their scripts find in a guest, each line a command and
// what it prints. Hooks, profile and certificates are TestHooksAndGrownDisk's, disks
// TestDisks'.
func TestBoot2docker(t *testing.T) {
	for _, promise := range []struct{ command, want string }{
		{"id -un; id -u; id -gn; id -g", "docker\n1000\nstaff\n50"},
		{"id -Gn | tr ' ' '\\n' | grep -x docker", "docker"},
		{"sudo -n id -u", "0"},
		{"echo $0 | grep -o bash; grep ^docker: /etc/passwd | cut -d: -f6,7", "bash\n/home/docker:/bin/bash"},
		{"sudo grep ^docker: /etc/shadow | cut -d: -f2", "*"}, // no password is the right one
		{"grep ^dockremap: /etc/passwd | cut -d: -f1; cut -d: -f1 /etc/subuid /etc/subgid", "dockremap\ndockremap\ndockremap"},
		{". /etc/os-release; echo $ID", "boot2docker"},
		// These two persist, the rest is made anew at each boot.
		{"stat -f -c %T /var/lib/docker /var/lib/boot2docker / | sed 's,ext2/ext3,ext4,'", "ext4\next4\noverlayfs"},
		{"cat /etc/hostname; hostname", shared + "\n" + shared},
		{"readlink /etc/docker/certs.d; ls -d /var/lib/boot2docker/certs", "/var/lib/boot2docker/etc/docker/certs.d\n/var/lib/boot2docker/certs"},
		{"sudo netstat -tln | sed -n 's/.* 0.0.0.0:\\([0-9]*\\) .*/\\1/p' | sort -n | head -2", "22\n2376"},
		{"sudo /etc/init.d/docker status && echo runs", "runs"},
		{"sudo /etc/init.d/docker dance 2>&1 | grep -o 'unknown command'", "unknown command"},
		{"for c in shutdown poweroff reboot halt sethostname netstat ip tee printf mkdir cat; do command -v $c || echo no $c; done | grep ^no; echo all", "all"},
		{"ls /dev/ttyS0 >/dev/null 2>&1; ps -o args= | grep -c '[g]etty'; true", "0"}, // nobody is logged in by himself
	} {
		if out := strings.TrimSpace(inGuest(t, shared, promise.command)); out != promise.want {
			t.Errorf("%s: %q, want %q", promise.command, out, promise.want)
		}
	}
}
