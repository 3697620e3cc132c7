package e2e

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// foreignImage makes an image of a static program for an architecture in a machine.
func foreignImage(t *testing.T, machine, arch string) string {
	t.Helper()
	dir := t.TempDir()
	source := "package main\n\nimport (\n\t\"os\"\n\t\"runtime\"\n)\n\nfunc main() { os.Stdout.WriteString(runtime.GOARCH + \"\\n\") }\n"
	if err := os.WriteFile(filepath.Join(dir, "main.go"), []byte(source), 0o644); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("go", "build", "-o", "hello", "main.go")
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "GOARCH="+arch, "GOOS=linux", "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if err := os.WriteFile(filepath.Join(dir, "Dockerfile"), []byte("FROM scratch\nCOPY hello /hello\nENTRYPOINT [\"/hello\"]\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	tag := "e2e-hello:" + arch
	dock(t, machine, "build", "-q", "-t", tag, dir)
	t.Cleanup(func() { dock(t, machine, "rmi", tag) })
	return tag
}

// Programs of the other architecture run, those of a third say what they are.
func TestForeignPrograms(t *testing.T) {
	if out := dock(t, shared, "run", "--rm", foreignImage(t, shared, "arm64")); out != "arm64\n" {
		t.Errorf("printed %q", out)
	}
	_, errText, code := result(t, docker, "--context", "hyve-"+shared, "run", "--rm", foreignImage(t, shared, "s390x"))
	if code != 126 || strings.Count(errText, "\n") != 1 || !strings.Contains(errText, "exec format error: it is for linux/s390x") {
		t.Errorf("exit status %d: %q", code, errText)
	}
	// The emulator is nobody's to write to.
	if out := inGuest(t, shared, "grep ' /usr/bin/\\(qemu-aarch64\\|hyve-init\\) ' /proc/mounts"); strings.Count(out, " erofs ro,") != 2 {
		t.Errorf("they are mounted as %q", out)
	}
}

// The exit statuses are those that docker's documentation promises.
func TestCommandsThatCannotRun(t *testing.T) {
	for command, want := range map[string]int{"nosuch": 127, "/nosuch": 127, "/etc": 126, "/etc/passwd": 126} {
		_, errText, code := result(t, docker, "--context", "hyve-"+shared, "run", "--rm", "busybox", command)
		if code != want || !strings.Contains(errText, `"`+command+`"`) {
			t.Errorf("%s: exit status %d, want %d: %s", command, code, want, errText)
		}
	}
	// docker exec is another matter: whatever the runtime says, the engine ends it with 126
	// (ContainerExecStart in moby's daemon/exec.go).
	id := strings.TrimSpace(dock(t, shared, "run", "-d", "--rm", "busybox", "sleep", "1000"))
	defer dock(t, shared, "kill", id)
	out, errText, code := result(t, docker, "--context", "hyve-"+shared, "exec", id, "nosuch")
	if code != 126 || !strings.Contains(out+errText, `"nosuch"`) {
		t.Errorf("docker exec of no command: exit status %d: %s%s", code, out, errText)
	}
}

// What is there on any Linux, and what loads when it is asked for.
func TestLinuxAsContainersExpectIt(t *testing.T) {
	for _, tt := range []struct{ what, script, want string }{
		{"nodes", "stat -c '%n %a %G' /dev/net/tun /dev/fuse /dev/loop-control /dev/vhost-net /dev/tty1 /dev/vda",
			"/dev/net/tun 666 root\n/dev/fuse 666 root\n/dev/loop-control 660 disk\n/dev/vhost-net 660 kvm\n/dev/tty1 620 tty\n/dev/vda 660 disk\n"},
		{"an opened node", "exec 3<>/dev/net/tun && lsmod | grep -c '^tun '", "1\n"},
		{"a device that comes later", "sudo sh -c ': </dev/loop-control' && stat -c '%a %G' /dev/loop0", "660 disk\n"},
		{"links by their kind", "sudo ip link add e2e0 type vxlan id 9 dstport 0 && sudo ip link del e2e0 && echo made", "made\n"},
		{"the old iptables", "sudo iptables-legacy -t nat -L -n >/dev/null && sudo ip6tables-legacy -t mangle -L -n >/dev/null && echo there", "there\n"},
		{"fusermount", "stat -L -c '%a %U' /usr/bin/fusermount", "4755 root\n"},
		{"AppArmor", "docker info -f '{{.SecurityOptions}}' | grep -c apparmor; cat /sys/module/apparmor/parameters/enabled", "0\nN\n"},
		{"security modules", "tr , '\\n' < /sys/kernel/security/lsm | grep -xE 'landlock|yama|bpf|selinux'", "landlock\nyama\nbpf\n"},
		{"the counter's rate, which the host measures", "grep -c ' tsc_early_khz=[1-9][0-9]*' /proc/cmdline", "1\n"},
		{"indexes of modules", "ls /lib/modules/$(uname -r) | grep -c '\\.bin$'", "5\n"},
	} {
		if out := inGuest(t, shared, tt.script+" || :"); out != tt.want {
			t.Errorf("%s: %q, want %q", tt.what, out, tt.want)
		}
	}
	if out := dock(t, shared, "run", "--rm", "--device", "/dev/net/tun", "--device", "/dev/fuse", "-v", "/etc/localtime:/etc/localtime:ro", "-v", "/etc/timezone:/etc/timezone:ro",
		"busybox", "sh", "-c", "head -c 4 /etc/localtime; test -s /etc/timezone && test -c /dev/net/tun && test -c /dev/fuse && echo ' there'"); out != "TZif there\n" {
		t.Errorf("printed %q", out)
	}
	// Handlers that a container registers are asked before those that are there.
	if out := dock(t, shared, "run", "--rm", "--privileged", "busybox", "sh", "-c",
		"mount -t binfmt_misc x /proc/sys/fs/binfmt_misc && echo ':e2e:E::e2e::/bin/true:' >/proc/sys/fs/binfmt_misc/register && echo -1 >/proc/sys/fs/binfmt_misc/e2e && echo done"); out != "done\n" {
		t.Errorf("printed %q", out)
	}
}

// A container mounts a file system by FUSE with what it takes on any Debian: the device,
// which everybody may open, and CAP_SYS_ADMIN. Without the latter nobody mounts.
func TestFUSEInAContainer(t *testing.T) {
	const script = `mkdir -p /mnt/fs
		echo nobody:x:65534:65534::/:/hellofs >>/etc/passwd
		su -s /hellofs nobody /mnt/fs
		/hellofs /mnt/fs & for i in $(seq 50); do
			grep -q ' /mnt/fs fuse' /proc/mounts && break; kill -0 $! || exit 1; sleep 0.1
		done
		cat /mnt/fs/hello && umount /mnt/fs && wait $! && echo unmounted`
	id := strings.TrimSpace(dock(t, shared, "create", "--device", "/dev/fuse", "--cap-add", "SYS_ADMIN", "busybox", "sh", "-c", script))
	defer dock(t, shared, "rm", "-f", id)
	dock(t, shared, "cp", buildForGuest(t, "hellofs"), id+":/hellofs")
	out, errText, code := result(t, docker, "--context", "hyve-"+shared, "start", "-a", id)
	if code != 0 || out != "ready\nhello by FUSE\nunmounted\n" || errText != "hellofs: mounting: operation not permitted\n" {
		t.Errorf("exit status %d: %q, %q", code, out, errText)
	}
}

// A privileged container that has the guest's modules loads one; others do not.
func TestModprobeInAContainer(t *testing.T) {
	const script = `module=nlmon # for which nobody else asks
		run() { docker run --rm -v /lib/modules:/lib/modules:ro "$@" busybox modprobe $module; }
		sudo modprobe -r $module
		run 2>&1 | grep -c 'not permitted'; grep -c "^$module " /proc/modules
		run --privileged; grep -c "^$module " /proc/modules
		sudo modprobe -r $module; grep -c "^$module " /proc/modules; :`
	if out := inGuest(t, shared, script); out != "1\n0\n1\n0\n" {
		t.Errorf("printed %q", out)
	}
}

// Programs for other processors run whatever way a machine was stopped. What a container
// has registered besides lasts until the machine boots.
func TestForeignProgramsAfterStop(t *testing.T) {
	takesLong(t)
	needsFreezing(t)
	create(t, "foreign")
	image := foreignImage(t, "foreign", "arm64")
	dock(t, "foreign", "run", "--rm", "--privileged", "busybox", "sh", "-c",
		"mount -t binfmt_misc x /proc/sys/fs/binfmt_misc && echo ':e2e:E::e2e::/bin/true:' >/proc/sys/fs/binfmt_misc/register")
	handlers := func() string { return inGuest(t, "foreign", "ls /proc/sys/fs/binfmt_misc") }
	before := handlers()
	for _, tt := range []struct {
		stop []string
		want string
	}{
		{[]string{"stop", "foreign"}, before},
		{[]string{"stop", "--cold", "foreign"}, strings.Replace(before, "e2e\n", "", 1)},
	} {
		hyve(t, tt.stop...)
		hyve(t, "start", "foreign")
		if got := handlers(); got != tt.want || !strings.Contains(got, "qemu-aarch64") {
			t.Errorf("after %q the handlers are %q, want %q", tt.stop, got, tt.want)
		}
		if out := dock(t, "foreign", "run", "--rm", image); out != "arm64\n" {
			t.Errorf("after %q it printed %q", tt.stop, out)
		}
	}
}
