//go:build linux

package guest

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hyve-vm/hyve/internal/guestapi"
)

// bootTimeout bounds a boot under software emulation on a busy machine.
const bootTimeout = 4 * time.Minute

// bootVM starts a machine named "first" and waits for its engine.
func bootVM(t *testing.T, dir string, pki *testPKI, config guestapi.Config) *testVM {
	t.Helper()
	vm := startVM(t, dir, pki, config)
	vm.await(bootTimeout, func(e guestapi.Event) bool { return e.EngineReady != nil })
	if answer := vm.api("GET", "/_ping", ""); !strings.HasSuffix(answer, "OK") {
		t.Fatalf("ping answered %q", answer)
	}
	t.Logf("exec to ping: %.2f s, %.2f s of processor", time.Since(vm.started).Seconds(), vm.cpu().Seconds())
	return vm
}

// awaitPowerOff waits until the machine has powered off.
func (vm *testVM) awaitPowerOff() {
	vm.t.Helper()
	vm.await(3*time.Minute, func(e guestapi.Event) bool { return e.PowerOff != nil })
	select {
	case <-vm.exited:
	case <-time.After(30 * time.Second):
		vm.t.Error("the machine has said its last word and not powered off")
	}
}

// dataSuperblock reads the superblock of a machine that is off.
func dataSuperblock(t *testing.T, dir string) (fs ext4, replay bool) {
	t.Helper()
	f, err := os.Open(filepath.Join(dir, "data.raw"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	head := make([]byte, 64<<10)
	if _, err := io.ReadFull(f, head); err != nil {
		t.Fatal(err)
	}
	fs, ok := parseExt4(head)
	if !ok {
		t.Fatal("the data disk has no ext4 file system")
	}
	const featureRecover = 4
	return fs, head[1024+0x60]&featureRecover != 0
}

// TestMachine takes one machine through its life: first boot, published ports, a
// container out of memory, a crash of the engine, another identity, another
// host, a crash of the machine, a grown disk, and a power-off from inside.
func TestMachine(t *testing.T) {
	dir := t.TempDir()
	pki := newTestPKI(t, "first")
	config := guestapi.Config{Identity: pki.identity("first"), Engine: guestapi.Engine{
		ID: "11111111-2222-3333-4444-555555555555", StopTimeout: 3 * time.Second, Options: []string{"label=from=option", "log-level=warn"}}}
	vm := bootVM(t, dir, pki, config)
	if out := vm.run("hostname; id -un; sudo id -un; cat /etc/machine-id"); out != "first\ndocker\nroot\n"+config.Identity.ID+"\n" {
		t.Errorf("the machine says of itself %q", out)
	}
	before := time.Now()
	var guestTime float64
	fmt.Sscan(vm.run("date +%s.%N"), &guestTime)
	if after := time.Now(); guestTime < float64(before.UnixMilli())/1e3-0.1 || guestTime > float64(after.UnixMilli())/1e3+0.1 {
		t.Errorf("the guest's clock says %f, the host's %v to %v", guestTime, before.UnixMilli(), after.UnixMilli())
	}
	vm.run("mkdir -p /tmp/bb/bin && cp /usr/bin/busybox /tmp/bb/bin && ln -s busybox /tmp/bb/bin/sh && tar -C /tmp/bb -c . | docker import - bb")
	info := vm.run("docker info -f '{{.ID}} {{.Labels}} {{.CgroupDriver}} {{.CgroupVersion}} {{.Driver}}'")
	if info != config.Engine.ID+" [from=option] cgroupfs 2 overlay2\n" {
		t.Errorf("docker info says %q", info)
	}
	vm.sub(t, "ports", vm.testPorts)
	vm.sub(t, "out of memory", vm.testOutOfMemory)
	vm.sub(t, "engine crash", vm.testEngineCrash)
	vm.sub(t, "identity", vm.testIdentity)
	vm.sub(t, "another host", vm.testAnotherHost)

	vm.run(`cd /var/lib/boot2docker && echo 'echo "sync before $(ls /var/run/docker.sock 2>&1)" >> /run/hooks' | sudo tee bootsync.sh &&
		echo 'echo local >> /run/hooks' | sudo tee bootlocal.sh &&
		printf '%s\n' "EXTRA_ARGS='--label from=profile'" 'export FROM=profile' | sudo tee profile`)
	vm.run("docker run -d --name kept --restart always bb /bin/busybox sleep 1000000 && sync")
	vm.kill()
	if err := os.Truncate(filepath.Join(dir, "data.raw"), 30<<30); err != nil {
		t.Fatal(err)
	}
	vm = bootVM(t, dir, pki, config)
	if out := vm.run("docker ps --format '{{.Names}} {{.State}}'"); !strings.Contains(out, "kept running") {
		t.Errorf("after a crash of the machine its container is gone: %q", out)
	}
	if out := vm.run("df -B1 --output=size /var/lib/docker | tail -1"); len(strings.TrimSpace(out)) < 11 || out[0] < '2' {
		t.Errorf("the file system has not grown: %q", out)
	}
	if out := vm.run("cat /run/hooks; docker info -f '{{.Labels}}'; sudo cat /proc/$(cat /var/run/docker.pid)/environ | tr '\\0' ' '"); !strings.HasPrefix(out, "sync before ls: ") ||
		!strings.Contains(out, "local\n") || !strings.Contains(out, "from=profile") || !strings.Contains(out, "FROM=profile") {
		t.Errorf("hooks and profile: %q", out)
	}
	client := vm.ssh()
	session, err := client.NewSession()
	if err != nil {
		t.Fatal(err)
	}
	session.Run("sudo shutdown -h now")
	vm.awaitPowerOff()
	if fs, replay := dataSuperblock(t, dir); !fs.clean || fs.errors || replay {
		t.Errorf("the data disk is not clean: %+v, journal to replay: %t", fs, replay)
	}
}

// sub runs a part of a test on the machine; its failures are that part's.
func (vm *testVM) sub(t *testing.T, name string, f func(*testing.T)) {
	t.Run(name, func(t *testing.T) {
		defer func(whole testing.TB) { vm.t = whole }(vm.t)
		vm.t = t
		f(t)
	})
}

func (vm *testVM) testPorts(t *testing.T) {
	began := time.Now()
	id := strings.TrimSpace(vm.run("docker run -d -p 8080:80 -p 127.0.0.1:8081:80 bb /bin/busybox nc -ll -p 80 -e /bin/busybox echo hello"))
	t.Logf("docker run -p took %v", time.Since(began))
	opened := map[string]guestapi.PortOpened{}
	vm.await(10*time.Second, func(e guestapi.Event) bool {
		if e.PortOpened != nil {
			opened[fmt.Sprintf("%s:%d", e.PortOpened.HostIP, e.PortOpened.Port)] = *e.PortOpened
		}
		return len(opened) >= 3
	})
	for _, want := range []string{"0.0.0.0:8080", ":::8080", "127.0.0.1:8081"} {
		if _, ok := opened[want]; !ok {
			t.Errorf("no port %s in %v", want, opened)
		}
	}
	for _, port := range []int{8080, 8081} {
		conn := vm.dial(port)
		conn.SetDeadline(time.Now().Add(20 * time.Second))
		b, err := io.ReadAll(conn)
		if string(b) != "hello\n" {
			t.Errorf("port %d answers %q, %v", port, b, err)
		}
		conn.Close()
	}
	vm.run("docker rm -f " + id)
	for name, o := range opened {
		vm.await(20*time.Second, func(e guestapi.Event) bool { return e.PortClosed != nil && e.PortClosed.ID == o.ID })
		t.Logf("%s closed", name)
	}
}

func (vm *testVM) testOutOfMemory(t *testing.T) {
	client := vm.ssh()
	defer client.Close()
	session, err := client.NewSession()
	if err != nil {
		t.Fatal(err)
	}
	session.Run("docker run --rm -m 32m bb /bin/busybox sh -c 'x=xxxxxxxxxxxxxxxx; while :; do x=$x$x; done'")
	e := vm.await(30*time.Second, func(e guestapi.Event) bool { return e.OutOfMemory != nil })
	if !strings.HasPrefix(e.OutOfMemory.Cgroup, "/docker/") {
		t.Errorf("out of memory: %+v", *e.OutOfMemory)
	}
}

func (vm *testVM) testEngineCrash(t *testing.T) {
	ready := vm.count(func(e guestapi.Event) bool { return e.EngineReady != nil })
	vm.run("sudo kill -9 $(cat /var/run/docker.pid)")
	e := vm.await(20*time.Second, func(e guestapi.Event) bool { return e.Failed != nil })
	if e.Failed.Phase != guestapi.PhaseEngine || e.Failed.Fatal || !strings.Contains(e.Failed.Cause, "dockerd killed by signal 9") {
		t.Errorf("a killed dockerd is told as %+v", *e.Failed)
	}
	seen := 0
	vm.await(time.Minute*2, func(e guestapi.Event) bool {
		if e.EngineReady != nil {
			seen++
		}
		return seen > ready
	})
}

// count says how many events there have been for which match holds.
func (vm *testVM) count(match func(guestapi.Event) bool) (n int) {
	vm.mu.Lock()
	defer vm.mu.Unlock()
	for _, e := range vm.events {
		if match(e) {
			n++
		}
	}
	return n
}

func (vm *testVM) testIdentity(t *testing.T) {
	vm.run("docker run -d --name survivor bb /bin/busybox sleep 1000000")
	second := newTestPKI(t, "second")
	id := second.identity("second")
	id.Network.MAC = "5a:94:ef:e4:0c:ef"
	id.Labels = []string{"who=second"}
	began := time.Now()
	if problem := vm.request(guestapi.Request{Identity: &id}, time.Minute); problem != "" {
		t.Fatal(problem)
	}
	t.Logf("another identity took %v", time.Since(began))
	if _, err := vm.dialEngine(); err == nil {
		t.Error("the old identity's client is let in")
	}
	vm.pki = second
	if answer := vm.api("GET", "/v1.15/version", ""); !strings.Contains(answer, "200 OK") {
		t.Errorf("an old version request is answered %q", answer)
	}
	if out := vm.run("hostname; cat /sys/class/net/e*/address; docker info -f '{{.Labels}}'"); out != "second\n"+id.Network.MAC+"\n[from=option who=second]\n" {
		t.Errorf("after another identity: %q", out)
	}
	id.Proxies = map[string]string{"HTTP_PROXY": "http://192.168.127.1:3128"}
	began = time.Now()
	if problem := vm.request(guestapi.Request{Identity: &id}, 2*time.Minute); problem != "" {
		t.Fatal(problem)
	}
	t.Logf("another proxy took %v", time.Since(began))
	out := vm.run("echo $http_proxy; docker info -f '{{.HTTPProxy}} {{.LiveRestoreEnabled}}'; docker inspect -f '{{.State.Running}} {{.RestartCount}}' survivor; docker rm -f survivor")
	if out != "http://192.168.127.1:3128\nhttp://192.168.127.1:3128 false\ntrue 0\nsurvivor\n" {
		t.Errorf("after another proxy: %q", out)
	}
}

func (vm *testVM) testAnotherHost(t *testing.T) {
	vm.run("docker run -d --name published -p 8090:80 bb /bin/busybox sleep 1000000")
	ready := vm.count(func(e guestapi.Event) bool { return e.EngineReady != nil })
	opened := vm.count(func(e guestapi.Event) bool { return e.PortOpened != nil })
	vm.hello(7)
	vm.await(10*time.Second, func(e guestapi.Event) bool { return e.Hello != nil && e.Hello.Session == 7 })
	vm.await(10*time.Second, func(guestapi.Event) bool {
		return vm.count(func(e guestapi.Event) bool { return e.EngineReady != nil }) > ready &&
			vm.count(func(e guestapi.Event) bool { return e.PortOpened != nil }) >= opened+2
	})
	vm.run("docker rm -f published")
}

// TestRefusedDisk gives a machine a disk on which something is.
func TestRefusedDisk(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "data.raw"), append([]byte("XFSB"), make([]byte, 4<<20)...), 0o600); err != nil {
		t.Fatal(err)
	}
	pki := newTestPKI(t, "first")
	vm := startVM(t, dir, pki, guestapi.Config{Identity: pki.identity("first")})
	e := vm.awaitFailure(bootTimeout)
	if e.Phase != guestapi.PhaseDisk || !e.Fatal || !strings.Contains(e.Cause, "XFS") || !strings.Contains(e.Cause, "\n") {
		t.Errorf("the failure is %+v", e)
	}
	select {
	case <-vm.exited:
	case <-time.After(30 * time.Second):
		t.Error("the machine has not powered off")
	}
}
