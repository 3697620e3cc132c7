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
