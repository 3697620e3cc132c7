package e2e

import (
	enc "encoding/binary"
	"encoding/json"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// inGuest runs a shell's script in a machine as its user.
func inGuest(t *testing.T, machine, script string) string {
	t.Helper()
	return hyve(t, "ssh", machine, "--", script)
}

func problems(t *testing.T, machine string) string {
	t.Helper()
	return strings.Join(statusOf(t, machine).Problems, "\n")
}

func diskOf(name string) string { return filepath.Join(home, "machines", name, "disk.img") }

// checkDisk runs the file system's own check over a stopped machine's disk.
func checkDisk(t *testing.T, name string) {
	t.Helper()
	out, err := exec.Command("e2fsck", "-fn", diskOf(name)).CombinedOutput()
	if err != nil {
		t.Errorf("e2fsck: %v\n%s", err, out)
	}
}

// What the user asked of the engine reaches it.
func TestEngineOptions(t *testing.T) {
	takesLong(t)
	create(t, "asked", "--engine-opt", "default-shm-size=32m", "--label", "who=me", "--insecure-registry", "registry.test:5000")
	info := dock(t, "asked", "info", "-f", "{{.Labels}} {{.CgroupDriver}} {{.CgroupVersion}} {{.Driver}} {{.RegistryConfig.InsecureRegistryCIDRs}} {{json .RegistryConfig.IndexConfigs}}")
	for _, want := range []string{"[who=me]", "2 overlay2", "registry.test:5000"} {
		if !strings.Contains(info, want) {
			t.Errorf("%q is missing in %s", want, info)
		}
	}
	if out := dock(t, "asked", "run", "--rm", "busybox", "df", "-m", "/dev/shm"); !strings.Contains(out, " 32 ") {
		t.Errorf("/dev/shm is %s", out)
	}
	var m struct{ ID, EngineID string }
	if err := json.Unmarshal([]byte(hyve(t, "inspect", "asked")), &m); err != nil {
		t.Fatal(err)
	}
	if id := dock(t, "asked", "info", "-f", "{{.ID}}"); m.EngineID == "" || id != m.EngineID+"\n" {
		t.Errorf("the engine's ID is %q, want %q", id, m.EngineID)
	}
	if id := inGuest(t, "asked", "cat /etc/machine-id"); m.ID == "" || id != m.ID+"\n" {
		t.Errorf("the machine's ID is %q, want %q", id, m.ID)
	}
}

// An engine that dies is told of and comes back, and its containers with it.
func TestEngineCrash(t *testing.T) {
	takesLong(t)
	create(t, "crashing")
	id := strings.TrimSpace(dock(t, "crashing", "run", "-d", "--restart", "always", "busybox", "sleep", "100000"))
	inGuest(t, "crashing", "sudo kill -9 $(cat /var/run/docker.pid)")
	eventually(t, "the log names the cause", func() bool {
		return strings.Contains(hyve(t, "logs", "crashing", "--service", "supervisor"), "dockerd killed by signal 9")
	})
	up := func() bool {
		out, err := try(limit, docker, "--context", "hyve-crashing", "inspect", "-f", "{{.State.Running}}", id)
		return err == nil && out == "true\n"
	}
	eventually(t, "the container runs", up)
	eventually(t, "it is no problem any more", func() bool { return !strings.Contains(problems(t, "crashing"), "dockerd") })
	inGuest(t, "crashing", "sudo kill -9 $(busybox pidof containerd)")
	eventually(t, "the container runs again", up)
	inGuest(t, "crashing", "sudo /etc/init.d/docker restart")
	eventually(t, "the container runs after a restart of the engine", up)
}

// What boot2docker's users keep in /var/lib/boot2docker works; a disk that was
// made larger is used whole; what has a restart policy is up after a power cut;
// an end from inside leaves the disk clean.
func TestHooksAndGrownDisk(t *testing.T) {
	takesLong(t)
	create(t, "grown", "--disk", "4GiB")
	inGuest(t, "grown", `cd /var/lib/boot2docker && echo 'echo "sync before $(ls /var/run/docker.sock 2>&1)" >> /run/hooks' | sudo tee bootsync.sh &&
		echo 'echo local >> /run/hooks' | sudo tee bootlocal.sh &&
		printf '%s\n' "EXTRA_ARGS='--label from=profile'" 'export FROM=profile' | sudo tee profile`)
	ca, err := os.ReadFile(filepath.Join(home, "pki", "ca.pem"))
	if err != nil {
		t.Fatal(err)
	}
	put := command(t.Context(), binary, "ssh", "grown", "--", "sudo tee /var/lib/boot2docker/certs/own.pem")
	put.Stdin = strings.NewReader(string(ca))
	if out, err := put.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	dock(t, "grown", "run", "-d", "--name", "kept", "--restart", "always", "busybox", "sleep", "1000000")
	inGuest(t, "grown", "sync")
	hyve(t, "kill", "grown")
	if err := os.Truncate(diskOf("grown"), 8<<30); err != nil {
		t.Fatal(err)
	}
	hyve(t, "start", "grown")
	eventually(t, "the container runs", func() bool {
		return dock(t, "grown", "inspect", "-f", "{{.State.Running}}", "kept") == "true\n"
	})
	if size := inGuest(t, "grown", "df -BG --output=size /var/lib/docker | tail -1"); strings.TrimSpace(size) != "8G" {
		t.Errorf("the file system has %s", size)
	}
	if out := inGuest(t, "grown", "cat /run/hooks"); !strings.HasPrefix(out, "sync before ls: ") || !strings.HasSuffix(out, "local\n") {
		t.Errorf("the hooks left %q", out)
	}
	if out := dock(t, "grown", "info", "-f", "{{.Labels}}"); out != "[from=profile]\n" {
		t.Errorf("the engine's labels are %s", out)
	}
	environment := strings.Split(inGuest(t, "grown", "sudo cat /proc/$(cat /var/run/docker.pid)/environ"), "\x00")
	if !slices.Contains(environment, "FROM=profile") {
		t.Errorf("the engine's environment is %q", environment)
	}
	body := strings.Split(string(ca), "\n")[1]
	if out := inGuest(t, "grown", "grep -cxF "+body+" /etc/ssl/certs/ca-certificates.crt"); out != "1\n" {
		t.Errorf("the certificate is %s times among the trusted ones", out)
	}
	result(t, binary, "ssh", "grown", "--", "sudo shutdown -h now")
	eventually(t, "the machine is off", func() bool { return statusOf(t, "grown").State == "Stopped" })
	checkDisk(t, "grown")
}

// A machine that reboots itself is the same again.
func TestReboot(t *testing.T) {
	takesLong(t)
	create(t, "again")
	before := inGuest(t, "again", "cat /proc/sys/kernel/random/boot_id")
	result(t, binary, "ssh", "again", "--", "sudo reboot")
	eventually(t, "it is up again", func() bool {
		out, err := try(limit, binary, "ssh", "again", "--", "cat /proc/sys/kernel/random/boot_id")
		return err == nil && out != before && statusOf(t, "again").State == "Running"
	})
	dock(t, "again", "run", "--rm", "busybox", "true")
}

// A kernel that panics ends its machine, and the host says why.
func TestKernelPanic(t *testing.T) {
	takesLong(t)
	create(t, "panicking")
	go try(limit, binary, "ssh", "panicking", "--", "echo 1 | sudo tee /proc/sys/kernel/sysrq; echo c | sudo tee /proc/sysrq-trigger")
	eventually(t, "the machine is off", func() bool { return statusOf(t, "panicking").State == "Stopped" })
	if out := hyve(t, "status", "panicking"); !strings.Contains(out, "kernel panic") || !strings.Contains(out, "sysrq") {
		t.Errorf("status prints %s", out)
	}
	hyve(t, "start", "panicking")
	dock(t, "panicking", "run", "--rm", "busybox", "true")
	hyve(t, "stop", "panicking")
	checkDisk(t, "panicking")
}

// A damaged file system is mended at the start; a disk on which something else is
// is left alone; one that boot2docker made is taken as it is.
func TestDisks(t *testing.T) {
	takesLong(t)
	const name = "disky"
	create(t, name, "--disk", "2GiB", "--no-start", "--cold")
	write := func(at int64, data string) {
		t.Helper()
		file, err := os.OpenFile(diskOf(name), os.O_WRONLY, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer file.Close()
		if _, err := file.WriteAt([]byte(data), at); err != nil {
			t.Fatal(err)
		}
	}
	run := func(name string, args ...string) {
		t.Helper()
		if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
			t.Fatalf("%s %q: %v\n%s", name, args, err, out)
		}
	}

	write(0, "XFSB")
	_, errText, code := result(t, binary, "start", name)
	if code != 1 || !strings.Contains(errText, "refusing to format the data disk: it holds an XFS") {
		t.Errorf("start with a foreign disk: exit status %d: %s", code, errText)
	}
	write(0, "\x00\x00\x00\x00")

	// As boot2docker does: a partition, and its label.
	entry := enc.LittleEndian.AppendUint32([]byte{0, 0, 0, 0, 0x83, 0, 0, 0}, 2048)
	write(446, string(enc.LittleEndian.AppendUint32(entry, 2<<30>>9-2048)))
	write(510, "\x55\xaa")
	run("/sbin/mkfs.ext4", "-q", "-F", "-L", "boot2docker-data", "-E", "offset=1048576", diskOf(name), "1900m")
	hyve(t, "start", name)
	dock(t, name, "run", "--rm", "-v", "data:/data", "busybox", "sh", "-c", "echo kept > /data/file")
	if out := inGuest(t, name, "findmnt -no SOURCE /var/lib/docker"); !strings.Contains(out, "1[/var/lib/docker]") {
		t.Errorf("docker's directory is on %s", out)
	}
	hyve(t, "stop", name)

	// An error noted in the superblock, and a wrong count of free blocks.
	run("/sbin/debugfs", "-w", "-R", "set_super_value state 2", diskOf(name)+"?offset=1048576")
	run("/sbin/debugfs", "-w", "-R", "set_super_value free_blocks_count 7", diskOf(name)+"?offset=1048576")
	hyve(t, "start", name)
	if out := dock(t, name, "run", "--rm", "-v", "data:/data", "busybox", "cat", "/data/file"); out != "kept\n" {
		t.Errorf("the volume holds %q", out)
	}
	if out := hyve(t, "logs", "--service", "init", name); !strings.Contains(out, "the data disk needs a check") || !strings.Contains(out, "e2fsck: ") {
		t.Errorf("init says %s", out)
	}
}

// Files go in and out with the system's own scp, which speaks SFTP.
func TestCopyOverSSH(t *testing.T) {
	host, port, err := net.SplitHostPort(statusOf(t, shared).Endpoints.SSH)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, []byte(strings.Repeat("0123456789abcdef", 1<<16)), 0o644); err != nil {
		t.Fatal(err)
	}
	ssh, err := exec.LookPath("ssh")
	if err != nil {
		t.Fatal(err)
	}
	scp := func(from, to string) {
		t.Helper()
		stdout(t, "scp", "-S", ssh, "-q", "-F", "none", "-P", port, "-i", filepath.Join(home, "pki", "id_ed25519"),
			"-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-o", "LogLevel=ERROR", from, to)
	}
	scp(file, "docker@"+host+":there")
	scp("docker@"+host+":there", file+".back")
	stdout(t, "cmp", file, file+".back")
}

// The engine takes the machine for what it is, not for a container.
func TestEngineKnowsItsMachine(t *testing.T) {
	if out := dock(t, shared, "info", "--format", "{{.OperatingSystem}}"); strings.Contains(out, "containerized") {
		t.Errorf("the engine says that it runs on %s", out)
	}
}
