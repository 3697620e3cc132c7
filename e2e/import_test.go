package e2e

import (
	"crypto/sha256"
	enc "encoding/binary"
	"encoding/hex"
	"encoding/json"
	"hash/crc32"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// boot2dockerDisk makes a disk as boot2docker formats one: a GPT whose partition 2, which
// lies first, is for swap, and whose partition 1 takes the rest, with an ext4 file system.
func boot2dockerDisk(t *testing.T, path string, size int64) {
	t.Helper()
	const sector, first, swap = 512, 2048, 100 << 20 / 512
	entries := make([]byte, 128*128)
	entry := func(n int, kind string, start, last uint64) {
		guid, err := hex.DecodeString(kind)
		if err != nil {
			t.Fatal(err)
		}
		copy(entries[128*n:], guid)
		entries[128*n+16] = byte(n + 1) // which makes the GUID of the partition its own
		enc.LittleEndian.PutUint64(entries[128*n+32:], start)
		enc.LittleEndian.PutUint64(entries[128*n+40:], last)
	}
	entry(0, "af3dc60f838472478e793d69d8477de4", first+swap, uint64(size/sector-34))
	entry(1, "6dfd5706aba4c44384e50933c84b4f4f", first, first+swap-1)
	header := make([]byte, sector)
	copy(header, "EFI PART\x00\x00\x01\x00\x5c")
	for at, value := range map[int]uint64{24: 1, 32: uint64(size/sector - 1), 40: 34, 48: uint64(size/sector - 34), 56: 1, 72: 2} {
		enc.LittleEndian.PutUint64(header[at:], value)
	}
	enc.LittleEndian.PutUint32(header[80:], 128)
	enc.LittleEndian.PutUint32(header[84:], 128)
	enc.LittleEndian.PutUint32(header[88:], crc32.ChecksumIEEE(entries))
	enc.LittleEndian.PutUint32(header[16:], crc32.ChecksumIEEE(header[:92]))
	protective := make([]byte, sector)
	copy(protective[446:], "\x00\x00\x02\x00\xee\xff\xff\xff\x01\x00\x00\x00\xff\xff\xff\xff")
	copy(protective[510:], "\x55\xaa")

	file, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if err := file.Truncate(size); err != nil {
		t.Fatal(err)
	}
	for at, data := range map[int64][]byte{0: protective, sector: header, 2 * sector: entries} {
		if _, err := file.WriteAt(data, at); err != nil {
			t.Fatal(err)
		}
	}
	blocks := (size/sector - 33 - first - swap) * sector >> 10
	out, err := exec.Command("/sbin/mkfs.ext4", "-q", "-F", "-i", "8192", "-L", "boot2docker-data",
		"-E", "offset="+strconv.Itoa((first+swap)*sector), path, strconv.FormatInt(blocks, 10)+"k").CombinedOutput()
	if err != nil {
		t.Fatalf("mkfs.ext4: %v\n%s", err, out)
	}
}

// machineConfig is the config.json that docker-machine's xhyve driver wrote, changed.
func machineConfig(t *testing.T, change func(config, driver, engine map[string]any)) []byte {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(root, "internal", "machinestore", "testdata", "xhyve.json"))
	if err != nil {
		t.Fatal(err)
	}
	var config map[string]any
	if err := json.Unmarshal(data, &config); err != nil {
		t.Fatal(err)
	}
	options := config["HostOptions"].(map[string]any)
	change(config, config["Driver"].(map[string]any), options["EngineOptions"].(map[string]any))
	if data, err = json.Marshal(config); err != nil {
		t.Fatal(err)
	}
	return data
}

func put(t *testing.T, path string, data []byte) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
}

func sumOf(t *testing.T, path string) string {
	t.Helper()
	file, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	sum := sha256.New()
	if _, err := io.Copy(sum, file); err != nil {
		t.Fatal(err)
	}
	return hex.EncodeToString(sum.Sum(nil))
}

// A machine of docker-machine's moves in with its settings and all that docker had in it.
func TestImport(t *testing.T) {
	// The engine of a hyve machine writes to a disk of boot2docker's.
	create(t, "b2d", "--disk", "2GiB", "--no-start", "--cold")
	boot2dockerDisk(t, diskOf("b2d"), 2<<30)
	hyve(t, "start", "b2d")
	dock(t, "b2d", "run", "--name", "kept", "-v", "data:/data", "busybox", "sh", "-c", "echo kept > /data/file")
	dock(t, "b2d", "run", "-d", "--name", "web", "--restart", "always", "busybox", "sleep", "1000000")
	inGuest(t, "b2d", `printf '%s\n' "EXTRA_ARGS='" "--label provider=xhyve" "'" "DOCKER_HOST='-H tcp://0.0.0.0:2376'" DOCKER_TLS=auto |
		sudo tee /var/lib/boot2docker/profile && sudo mkdir -p /var/lib/docker/aufs/layers/0123`)
	hyve(t, "stop", "--cold", "b2d")

	store := t.TempDir()
	dir := filepath.Join(store, "machines", "dev")
	config := machineConfig(t, func(_, driver, engine map[string]any) {
		driver["CPU"], driver["Memory"], driver["DiskSize"] = -1, 1024, 3000
		engine["RegistryMirror"] = []string{registry}
	})
	put(t, filepath.Join(dir, "config.json"), config)
	raw := filepath.Join(dir, "dev.rawdisk")
	if err := os.Rename(diskOf("b2d"), raw); err != nil {
		t.Fatal(err)
	}
	hyve(t, "rm", "-f", "b2d")
	before := sumOf(t, raw)
	run := func(args ...string) (string, string, int) {
		t.Helper()
		return result(t, binary, append([]string{"import", "--from", store}, args...)...)
	}

	// One that seems to run, and one that is killed half-way, leave nothing.
	pid := filepath.Join(dir, "dev.pid")
	put(t, pid, []byte(strconv.Itoa(os.Getpid())))
	if _, text, code := run("dev"); code != 1 || !strings.Contains(text, "PID file lives") || !strings.Contains(text, "--force") {
		t.Errorf("one that runs: exit status %d: %s", code, text)
	}
	os.Remove(pid)
	t.Cleanup(func() { try(limit, binary, "rm", "-f", "dev") })
	eventually(t, "an import is killed while it copies the disk", func() bool {
		cmd := command(t.Context(), binary, "import", "--from", store, "dev")
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		ended := make(chan error, 1)
		go func() { ended <- cmd.Wait() }()
		copying := false
		// The copy takes a few milliseconds where the disk is quick, so this does not sleep.
		for !copying && len(ended) == 0 {
			disks, _ := filepath.Glob(filepath.Join(home, "machines", ".draft-*", "disk.img"))
			copying = len(disks) > 0
		}
		cmd.Process.Kill()
		if err := <-ended; copying && err != nil {
			return true
		}
		try(limit, binary, "rm", "-f", "dev") // it was too quick
		return false
	})
	if strings.Contains(hyve(t, "ls", "-q"), "dev") {
		t.Error("a killed import left a machine")
	}

	_, text, code := run("dev")
	if code != 0 || !strings.Contains(text, "containers that mount them find them empty") || !strings.Contains(text, `docker kept with "aufs"`) {
		t.Fatalf("import: exit status %d: %s", code, text)
	}
	if out := dock(t, "dev", "run", "--rm", "-v", "data:/data", "busybox", "cat", "/data/file"); out != "kept\n" {
		t.Errorf("the volume holds %q", out)
	}
	if out := dock(t, "dev", "inspect", "-f", "{{.State.Running}}", "web"); out != "true\n" {
		t.Errorf("the container runs: %s", out)
	}
	if out := dock(t, "dev", "network", "inspect", "bridge", "-f", "{{(index .IPAM.Config 0).Gateway}}"); out != "172.20.0.1\n" {
		t.Errorf("the bridge's address is %s", out)
	}
	info := dock(t, "dev", "info", "-f", "{{json .Labels}} {{json .RegistryConfig.Mirrors}} {{json .RegistryConfig.IndexConfigs}}")
	for _, want := range []string{"team=blue", "provider=xhyve", registry, "registry.local:5000"} {
		if !strings.Contains(info, want) {
			t.Errorf("%q is missing in %s", want, info)
		}
	}
	if out := inGuest(t, "dev", "df -BM --output=size /var/lib/docker | tail -1"); !strings.HasPrefix(strings.TrimSpace(out), "28") {
		t.Errorf("the file system has %s", out)
	}
	if out := problems(t, "dev"); !strings.Contains(out, `docker kept with "aufs"`) {
		t.Errorf("the status says %s", out)
	}
	if _, text, code := run("dev"); code != 1 || !strings.Contains(text, "already exists") {
		t.Errorf("again: exit status %d: %s", code, text)
	}
	if sumOf(t, raw) != before {
		t.Error("docker-machine's disk has changed")
	}

	// The same disk as VirtualBox has it.
	vmdk := filepath.Join(store, "machines", "box", "disk.vmdk")
	put(t, filepath.Join(filepath.Dir(vmdk), "config.json"), machineConfig(t, func(config, _, _ map[string]any) { config["DriverName"] = "virtualbox" }))
	if out, err := exec.Command("qemu-img", "convert", "-f", "raw", "-O", "vmdk", raw, vmdk).CombinedOutput(); err != nil {
		t.Fatalf("qemu-img: %v\n%s", err, out)
	}
	t.Cleanup(func() { try(limit, binary, "rm", "-f", "boxed") })
	if _, text, code := run("box", "--as", "boxed", "--no-start", "--disk", "2GiB"); code != 0 {
		t.Fatalf("import of a VMDK: exit status %d: %s", code, text)
	}
	checkDisk(t, "boxed")
	if out, err := exec.Command("/sbin/debugfs", "-R", "cat /var/lib/docker/volumes/data/_data/file", diskOf("boxed")).Output(); err != nil || string(out) != "kept\n" {
		t.Errorf("the volume holds %q, %v", out, err)
	}
}
