//go:build linux

package guest

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containers/gvisor-tap-vsock/pkg/types"
	"github.com/containers/gvisor-tap-vsock/pkg/virtualnetwork"
	"golang.org/x/crypto/ssh"

	"github.com/hyve-vm/hyve/internal/guestapi"
)

// Identity's key material, made once a test binary.
type testPKI struct {
	ca         *x509.Certificate
	caKey      *ecdsa.PrivateKey
	caPEM      string
	certPEM    string
	keyPEM     string
	client     tls.Certificate
	hostKeyPEM string
	hostKey    ssh.PublicKey
	user       ssh.Signer
}

func newTestPKI(t testing.TB, name string) *testPKI {
	t.Helper()
	p := &testPKI{}
	must := func(err error) {
		if err != nil {
			t.Helper()
			t.Fatal(err)
		}
	}
	var err error
	p.caKey, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test CA"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour), KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &p.caKey.PublicKey, p.caKey)
	must(err)
	p.ca, err = x509.ParseCertificate(der)
	must(err)
	p.caPEM = string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
	p.certPEM, p.keyPEM = p.issue(t, name, x509.ExtKeyUsageServerAuth)
	clientCert, clientKey := p.issue(t, "client", x509.ExtKeyUsageClientAuth)
	p.client, err = tls.X509KeyPair([]byte(clientCert), []byte(clientKey))
	must(err)
	_, host, err := ed25519.GenerateKey(rand.Reader)
	must(err)
	block, err := ssh.MarshalPrivateKey(host, "")
	must(err)
	p.hostKeyPEM = string(pem.EncodeToMemory(block))
	signer, err := ssh.NewSignerFromKey(host)
	must(err)
	p.hostKey = signer.PublicKey()
	_, user, err := ed25519.GenerateKey(rand.Reader)
	must(err)
	p.user, err = ssh.NewSignerFromKey(user)
	must(err)
	return p
}

// issue makes a certificate for name, which may have that one use.
func (p *testPKI) issue(t testing.TB, name string, use x509.ExtKeyUsage) (certPEM, keyPEM string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name}, DNSNames: []string{name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour), ExtKeyUsage: []x509.ExtKeyUsage{use},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, p.ca, &key.PublicKey, p.caKey)
	if err != nil {
		t.Fatal(err)
	}
	b, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})),
		string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: b}))
}

// identity is that of a machine with this key material.
func (p *testPKI) identity(name string) guestapi.Identity {
	seed := make([]byte, 32)
	rand.Read(seed)
	return guestapi.Identity{
		Name: name, ID: strings.Repeat("0123456789abcdef", 2),
		Network: guestapi.Network{MAC: "5a:94:ef:e4:0c:ee", Address: "192.168.127.2/24", Gateway: "192.168.127.1", MTU: 16384},
		Clock:   guestapi.ClockNow(), Seed: seed,
		CA: p.caPEM, ServerCert: p.certPEM, ServerKey: p.keyPEM, SSHHostKey: p.hostKeyPEM,
		AuthorizedKeys: []string{string(ssh.MarshalAuthorizedKey(p.user.PublicKey()))},
	}
}

// A testVM is a virtual machine with the host's side of everything it speaks.
type testVM struct {
	t       testing.TB
	dir     string
	pki     *testPKI
	cmd     *exec.Cmd
	exited  chan struct{}
	network *virtualnetwork.VirtualNetwork
	started time.Time

	mu      sync.Mutex
	w       *guestapi.Writer[guestapi.Request]
	events  []guestapi.Event
	arrived chan struct{} // closed and replaced at each event
	nextID  uint64
}

// imageFile returns a file of the image under test, or skips.
func imageFile(t testing.TB, name string) string {
	dir := os.Getenv("HYVE_TEST_IMAGE")
	if dir == "" {
		t.Skip("HYVE_TEST_IMAGE names no directory with vmlinux, initrd and root.erofs")
	}
	return filepath.Join(dir, name)
}

func startVM(t testing.TB, dir string, pki *testPKI, config guestapi.Config) *testVM {
	t.Helper()
	if testing.Short() {
		t.Skip("starts a virtual machine")
	}
	qemu, err := exec.LookPath("qemu-system-x86_64")
	if err != nil || runtime.GOARCH != "amd64" {
		t.Skip("needs qemu-system-x86_64 on amd64")
	}
	kernel, initrd, root := imageFile(t, "vmlinux"), imageFile(t, "initrd"), imageFile(t, "root.erofs")
	vm := &testVM{t: t, dir: dir, pki: pki, exited: make(chan struct{}), arrived: make(chan struct{})}
	disk := filepath.Join(dir, "data.raw")
	if _, err := os.Stat(disk); err != nil {
		f, err := os.Create(disk)
		if err != nil {
			t.Fatal(err)
		}
		f.Truncate(20 << 30)
		f.Close()
	}
	control, netSocket := vm.listen("control"), vm.listen("net")
	vm.network, err = virtualnetwork.New(&types.Configuration{
		MTU: 16384, Subnet: "192.168.127.0/24", GatewayIP: "192.168.127.1", GatewayMacAddress: "5a:94:ef:e4:0c:dd",
		DHCPStaticLeases: map[string]string{"192.168.127.2": "5a:94:ef:e4:0c:ee"}, Protocol: types.QemuProtocol,
	})
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		if c, err := netSocket.Accept(); err == nil {
			vm.network.AcceptQemu(context.Background(), c)
		}
	}()
	go vm.serveControl(t, control, config)
	args := []string{
		"-accel", "tcg,thread=multi", "-cpu", "max,-cx16", "-machine", "q35", "-smp", "2", "-m", "2048",
		"-nodefaults", "-no-reboot", "-nographic", "-kernel", kernel, "-initrd", initrd,
		"-append", "console=hvc0 quiet cryptomgr.notests nokaslr mitigations=off tsc=reliable random.trust_cpu=on panic=1",
		"-device", "virtio-serial-pci",
		"-chardev", "socket,id=c0,path=" + filepath.Join(dir, "control"), "-device", "virtserialport,chardev=c0,name=" + guestapi.Port,
		"-chardev", "file,id=con,path=" + filepath.Join(dir, "console"), "-device", "virtconsole,chardev=con",
		"-blockdev", "driver=file,node-name=rootf,read-only=on,filename=" + root,
		"-device", "virtio-blk-pci,drive=rootf,serial=" + guestapi.RootDisk,
		"-blockdev", "driver=file,node-name=dataf,discard=unmap,filename=" + disk,
		"-device", "virtio-blk-pci,drive=dataf,serial=" + guestapi.DataDisk,
		"-device", "virtio-rng-pci", "-device", "virtio-balloon-pci,free-page-reporting=on",
		"-netdev", "stream,id=n0,server=off,addr.type=unix,addr.path=" + filepath.Join(dir, "net"),
		"-device", "virtio-net-pci,netdev=n0,mac=5a:94:ef:e4:0c:ee,host_mtu=16384",
		"-monitor", "unix:" + filepath.Join(dir, "monitor") + ",server=on,wait=off",
	}
	vm.cmd = exec.Command(qemu, args...)
	var stderr bytes.Buffer
	vm.cmd.Stderr = &stderr
	vm.started = time.Now()
	if err := vm.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		vm.cmd.Wait()
		if stderr.Len() > 0 {
			t.Logf("qemu: %s", stderr.String())
		}
		close(vm.exited)
	}()
	t.Cleanup(vm.kill)
	return vm
}

func (vm *testVM) listen(name string) net.Listener {
	path := filepath.Join(vm.dir, name)
	os.Remove(path)
	l, err := net.Listen("unix", path)
	if err != nil {
		vm.t.Fatal(err)
	}
	return l
}

// serveControl is the host's end of the channel.
func (vm *testVM) serveControl(t testing.TB, l net.Listener, config guestapi.Config) {
	conn, err := l.Accept()
	l.Close()
	if err != nil {
		return
	}
	vm.mu.Lock()
	vm.w = guestapi.NewWriter[guestapi.Request](conn)
	vm.mu.Unlock()
	vm.hello(1)
	vm.w.Write(guestapi.Request{ID: 1, Configure: &config})
	vm.nextID = 1
	r := guestapi.NewReader[guestapi.Event](conn)
	for {
		e, err := r.Read()
		if err != nil {
			return
		}
		if e.PortOpened != nil {
			vm.w.Write(guestapi.Request{PortAck: &guestapi.PortAck{ID: e.PortOpened.ID}})
		}
		if e.Hello != nil {
			vm.w.Write(guestapi.Request{ID: 2, Clock: &guestapi.Clock{UnixNano: time.Now().UnixNano()}})
		}
		vm.mu.Lock()
		vm.events = append(vm.events, e)
		close(vm.arrived)
		vm.arrived = make(chan struct{})
		vm.mu.Unlock()
		if testing.Verbose() {
			t.Logf("%6.2f %6.2f cpu %6.2f %s", time.Since(vm.started).Seconds(), e.Uptime.Seconds(), vm.cpu().Seconds(), describeEvent(e))
		}
	}
}

// cpu is the processor time that the machine has taken, which says more than the
// clock where others use the processors too.
func (vm *testVM) cpu() time.Duration {
	b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/stat", vm.cmd.Process.Pid))
	_, rest, _ := strings.Cut(string(b), ") ")
	fields := strings.Fields(rest)
	if len(fields) < 13 {
		return 0
	}
	var user, system int64
	fmt.Sscan(fields[11], &user)
	fmt.Sscan(fields[12], &system)
	return time.Duration(user+system) * (time.Second / 100)
}

func (vm *testVM) hello(session uint64) {
	vm.w.Resync()
	vm.w.Write(guestapi.Request{Hello: &guestapi.Hello{Version: guestapi.Version, Session: session}})
}

// request sends r under a new ID and returns the guest's reply.
func (vm *testVM) request(r guestapi.Request, bound time.Duration) string {
	vm.t.Helper()
	vm.mu.Lock()
	vm.nextID += 10
	r.ID = vm.nextID
	vm.mu.Unlock()
	vm.w.Write(r)
	e := vm.await(bound, func(e guestapi.Event) bool { return e.Reply != nil && e.Reply.ID == r.ID })
	return e.Reply.Error
}

// await returns the first event of all that have come, or come within bound, for
// which match holds. A fatal failure ends the test.
func (vm *testVM) await(bound time.Duration, match func(guestapi.Event) bool) guestapi.Event {
	vm.t.Helper()
	deadline := time.After(bound)
	seen := 0
	for {
		vm.mu.Lock()
		events, arrived := vm.events, vm.arrived
		vm.mu.Unlock()
		for ; seen < len(events); seen++ {
			if match(events[seen]) {
				return events[seen]
			}
			if f := events[seen].Failed; f != nil && f.Fatal {
				vm.t.Fatalf("the guest failed: %+v\nconsole:\n%s", *f, vm.console())
			}
		}
		select {
		case <-arrived:
		case <-vm.exited:
			vm.t.Fatalf("the machine ended\nconsole:\n%s", vm.console())
		case <-deadline:
			vm.t.Fatalf("nothing after %v\nconsole:\n%s", bound, vm.console())
		}
	}
}

// awaitFailure waits for the first failure.
func (vm *testVM) awaitFailure(bound time.Duration) guestapi.Failed {
	vm.t.Helper()
	var failed *guestapi.Failed
	vm.await(bound, func(e guestapi.Event) bool { failed = e.Failed; return failed != nil })
	return *failed
}

func (vm *testVM) console() string {
	b, _ := os.ReadFile(filepath.Join(vm.dir, "console"))
	return string(b)
}

// dial connects to a port of the guest.
func (vm *testVM) dial(port int) net.Conn {
	vm.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	conn, err := vm.network.DialContextTCP(ctx, fmt.Sprintf("192.168.127.2:%d", port))
	if err != nil {
		vm.t.Fatalf("dialling port %d: %v", port, err)
	}
	return conn
}

// dialEngine connects to the engine as its client.
func (vm *testVM) dialEngine() (*tls.Conn, error) {
	vm.t.Helper()
	pool := x509.NewCertPool()
	pool.AddCert(vm.pki.ca)
	conn := tls.Client(vm.dial(guestapi.EnginePort), &tls.Config{
		RootCAs: pool, ServerName: vm.pki.serverName(), Certificates: []tls.Certificate{vm.pki.client}})
	conn.SetDeadline(time.Now().Add(60 * time.Second))
	return conn, conn.Handshake()
}

func (p *testPKI) serverName() string {
	block, _ := pem.Decode([]byte(p.certPEM))
	cert, _ := x509.ParseCertificate(block.Bytes)
	return cert.DNSNames[0]
}

// api makes a request of the engine and returns the answer, head and body.
func (vm *testVM) api(method, path, body string) string {
	vm.t.Helper()
	conn, err := vm.dialEngine()
	if err != nil {
		vm.t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprintf(conn, "%s %s HTTP/1.0\r\nHost: docker\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", method, path, len(body), body)
	answer, err := io.ReadAll(conn)
	if err != nil && len(answer) == 0 {
		vm.t.Fatal(err)
	}
	return string(answer)
}

func (vm *testVM) ssh() *ssh.Client {
	vm.t.Helper()
	conn, channels, requests, err := ssh.NewClientConn(vm.dial(guestapi.SSHPort), "guest", &ssh.ClientConfig{
		User: "docker", Auth: []ssh.AuthMethod{ssh.PublicKeys(vm.pki.user)},
		HostKeyCallback: ssh.FixedHostKey(vm.pki.hostKey), Timeout: 20 * time.Second,
	})
	if err != nil {
		vm.t.Fatal(err)
	}
	return ssh.NewClient(conn, channels, requests)
}

// run runs a command in the guest as its user and returns what it printed.
func (vm *testVM) run(command string) string {
	vm.t.Helper()
	client := vm.ssh()
	defer client.Close()
	session, err := client.NewSession()
	if err != nil {
		vm.t.Fatal(err)
	}
	out, err := session.CombinedOutput(command)
	if err != nil {
		vm.t.Errorf("%s: %v\n%s", command, err, out)
	}
	return string(out)
}

// kill ends the machine without ceremony.
func (vm *testVM) kill() {
	vm.cmd.Process.Kill()
	<-vm.exited
}

func describeEvent(e guestapi.Event) string {
	switch {
	case e.Hello != nil:
		return fmt.Sprintf("hello %+v", *e.Hello)
	case e.Reply != nil:
		return fmt.Sprintf("reply %+v", *e.Reply)
	case e.Phase != nil:
		return "phase " + e.Phase.Name
	case e.EngineReady != nil:
		return fmt.Sprintf("engine ready %+v", *e.EngineReady)
	case e.Failed != nil:
		return fmt.Sprintf("FAILED %+v", *e.Failed)
	case e.Log != nil:
		return e.Log.Service + ": " + e.Log.Line
	case e.PortOpened != nil:
		return fmt.Sprintf("port opened %+v", *e.PortOpened)
	case e.PortClosed != nil:
		return fmt.Sprintf("port closed %+v", *e.PortClosed)
	case e.OutOfMemory != nil:
		return fmt.Sprintf("out of memory %+v", *e.OutOfMemory)
	case e.DiskFull != nil:
		return fmt.Sprintf("disk full %+v", *e.DiskFull)
	case e.PowerOff != nil:
		return fmt.Sprintf("power off %+v", *e.PowerOff)
	}
	return "nothing"
}
