package e2e

import (
	"bytes"
	"context"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/hyve-vm/hyve/internal/guestapi"
	"github.com/hyve-vm/hyve/internal/hypervisor"
	"github.com/hyve-vm/hyve/internal/hypervisor/qemu"
	"github.com/hyve-vm/hyve/internal/image"
	"github.com/hyve-vm/hyve/internal/network"
	"github.com/hyve-vm/hyve/internal/pki"
)

// A rawGuest is a guest in a VM without a supervisor: the test itself is the
// host's end of the conversation.
type rawGuest struct {
	t   *testing.T
	net *network.Network
	out *guestapi.Writer[guestapi.Request]

	mu      sync.Mutex
	events  []guestapi.Event
	arrived chan struct{} // closed and replaced at each event
}

// keys are what an identity has of keys, and those of its clients.
type keys struct {
	ca         *pki.CA
	server     pki.Pair
	host, user pki.SSHKey
}

func newKeys(t *testing.T, name string) keys {
	t.Helper()
	dir := t.TempDir()
	ca, err := pki.OpenCA(dir)
	if err != nil {
		t.Fatal(err)
	}
	k := keys{ca: ca}
	if k.server, err = ca.Server(filepath.Join(dir, "server"), []string{name}, []netip.Addr{netip.MustParseAddr("127.0.0.1")}); err != nil {
		t.Fatal(err)
	}
	if k.host, err = pki.OpenSSHKey(filepath.Join(dir, "host")); err != nil {
		t.Fatal(err)
	}
	if k.user, err = ca.SSHKey(); err != nil {
		t.Fatal(err)
	}
	return k
}

func (k keys) identity(name string) guestapi.Identity {
	return guestapi.Identity{
		Name: name, ID: strings.Repeat(name[:1], 32), Clock: guestapi.ClockNow(), Seed: bytes.Repeat([]byte(name[:1]), 32),
		Network: guestapi.Network{MAC: network.GuestMAC, Address: network.GuestCIDR, Gateway: network.GatewayIP, MTU: network.DefaultMTU},
		CA:      string(k.ca.PEM()), ServerCert: string(k.server.CertPEM), ServerKey: string(k.server.KeyPEM),
		SSHHostKey: string(k.host.PEM), AuthorizedKeys: []string{k.user.Public()},
	}
}

// bootRaw boots the image that the shared machine has.
func bootRaw(t *testing.T, config guestapi.Config) *rawGuest {
	t.Helper()
	dir := t.TempDir()
	store, err := image.Open(filepath.Join(home, "images"))
	if err != nil {
		t.Fatal(err)
	}
	img, err := store.Find("", runtime.GOARCH)
	if err != nil {
		t.Fatal(err)
	}
	q, err := qemu.Find(t.Context(), "", filepath.Join(home, "cache"))
	if err != nil {
		t.Fatal(err)
	}
	accel := q.Accelerator(t.Context()).Name
	disk := filepath.Join(dir, "disk")
	if err := os.WriteFile(disk, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(disk, 4<<30); err != nil {
		t.Fatal(err)
	}
	listen := func(name string) net.Listener {
		l, err := net.Listen("unix", filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { l.Close() })
		return l
	}
	channel, card := listen("guest"), listen("net")
	g := &rawGuest{t: t, arrived: make(chan struct{})}
	if g.net, err = network.New(network.Config{}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { g.net.Close() })
	go g.net.Serve(t.Context(), card)

	vm, err := qemu.Start(t.Context(), q, hypervisor.Config{
		Name: "raw", CPUs: 2, Memory: 1 << 30,
		Kernel: img.Kernel(), Initrd: img.Initrd(),
		Cmdline: "console=hvc0 quiet " + img.Manifest.Cmdline + " " + qemu.KernelCmdline(q.Features(accel)),
		Disks: []hypervisor.Disk{
			{Serial: guestapi.RootDisk, Path: img.Root(), ReadOnly: true},
			{Serial: guestapi.DataDisk, Path: disk},
		},
		Channels: []hypervisor.Channel{{Name: guestapi.Port, Socket: channel.Addr().String()}},
		Network:  hypervisor.Network{Socket: card.Addr().String(), MAC: network.GuestMAC, MTU: network.DefaultMTU},
		Console:  true,
	}, hypervisor.Options{Accel: accel})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { vm.Kill(); <-vm.Done() })
	go func() {
		for range vm.Events() {
		}
	}()
	conn, err := channel.Accept()
	if err != nil {
		t.Fatal(err)
	}
	g.out = guestapi.NewWriter[guestapi.Request](conn)
	go g.listen(conn)
	g.hello(1)
	g.send(guestapi.Request{ID: 1, Configure: &config})
	return g
}

func (g *rawGuest) listen(conn net.Conn) {
	for in := guestapi.NewReader[guestapi.Event](conn); ; {
		event, err := in.Read()
		if err != nil {
			return
		}
		if port := event.PortOpened; port != nil {
			g.out.Write(guestapi.Request{PortAck: &guestapi.PortAck{ID: port.ID}})
		}
		g.mu.Lock()
		g.events = append(g.events, event)
		close(g.arrived)
		g.arrived = make(chan struct{})
		g.mu.Unlock()
	}
}

func (g *rawGuest) send(request guestapi.Request) {
	g.t.Helper()
	if err := g.out.Write(request); err != nil {
		g.t.Fatal(err)
	}
}

// hello begins a conversation and returns how many events came before.
func (g *rawGuest) hello(session uint64) (before int) {
	g.t.Helper()
	g.mu.Lock()
	before = len(g.events)
	g.mu.Unlock()
	if err := g.out.Resync(); err != nil {
		g.t.Fatal(err)
	}
	g.send(guestapi.Request{Hello: &guestapi.Hello{Version: guestapi.Version, Session: session}})
	g.await(before, "hello", func(e guestapi.Event) bool { return e.Hello != nil && e.Hello.Session == session })
	return before
}

// await returns the first event from that one on for which match holds.
func (g *rawGuest) await(from int, what string, match func(guestapi.Event) bool) guestapi.Event {
	g.t.Helper()
	deadline := time.After(scaled(limit))
	for {
		g.mu.Lock()
		events, arrived := g.events, g.arrived
		g.mu.Unlock()
		for ; from < len(events); from++ {
			if match(events[from]) {
				return events[from]
			}
			if failed := events[from].Failed; failed != nil {
				g.t.Fatalf("the guest failed: %+v", *failed)
			}
		}
		select {
		case <-arrived:
		case <-deadline:
			g.t.Fatalf("in vain: %s", what)
		}
	}
}

// become gives the guest another identity.
func (g *rawGuest) become(id uint64, identity guestapi.Identity) {
	g.t.Helper()
	g.send(guestapi.Request{ID: id, Identity: &identity})
	reply := g.await(0, "a reply", func(e guestapi.Event) bool { return e.Reply != nil && e.Reply.ID == id })
	if reply.Reply.Error.String() != "" {
		g.t.Fatal(reply.Reply.Error)
	}
}

// engine asks the engine as the client of those keys.
func (g *rawGuest) engine(k keys, name, path string) (string, error) {
	client := &http.Client{Timeout: scaled(limit), Transport: &http.Transport{
		DisableKeepAlives: true,
		DialTLSContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			conn, err := g.net.DialGuest(ctx, guestapi.EnginePort)
			if err != nil {
				return nil, err
			}
			secured := tls.Client(conn, k.ca.ClientConfig(name))
			return secured, secured.HandshakeContext(ctx)
		},
	}}
	response, err := client.Get("https://engine" + path)
	if err != nil {
		return "", err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	return string(body), err
}

// run runs a command in the guest as the user of those keys.
func (g *rawGuest) run(k keys, command string) (string, error) {
	g.t.Helper()
	conn, err := g.net.DialGuest(g.t.Context(), guestapi.SSHPort)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	c, channels, requests, err := ssh.NewClientConn(conn, "guest", &ssh.ClientConfig{
		User: "docker", Auth: []ssh.AuthMethod{ssh.PublicKeys(k.user.Signer)},
		HostKeyCallback: ssh.FixedHostKey(k.host.Signer.PublicKey()),
	})
	if err != nil {
		return "", err
	}
	session, err := ssh.NewClient(c, channels, requests).NewSession()
	if err != nil {
		return "", err
	}
	out, err := session.CombinedOutput(command)
	return string(out), err
}

// A running guest becomes another machine: name, keys and certificates, labels
// and proxies, while its containers run on.
func TestIdentity(t *testing.T) {
	takesLong(t)
	first, second := newKeys(t, "alpha"), newKeys(t, "beta")
	g := bootRaw(t, guestapi.Config{Identity: first.identity("alpha"), Engine: guestapi.Engine{Options: []string{"label=from=option"}}})
	g.await(0, "the engine", func(e guestapi.Event) bool { return e.EngineReady != nil })
	ask := func(k keys, command string) string {
		t.Helper()
		out, err := g.run(k, command)
		if err != nil {
			t.Errorf("%s: %v: %s", command, err, out)
		}
		return out
	}
	if out := ask(first, "hostname; cat /etc/machine-id"); out != "alpha\n"+strings.Repeat("a", 32)+"\n" {
		t.Errorf("at first: %q", out)
	}
	ask(first, "mkdir -p /tmp/root/bin && cp /usr/bin/busybox /tmp/root/bin && tar -C /tmp/root -c . | docker import - bb")
	ask(first, "docker run -d --name survivor bb /bin/busybox sleep 1000000")

	identity := second.identity("beta")
	identity.Labels = []string{"who=beta"}
	g.become(10, identity)
	if _, err := g.engine(first, "alpha", "/version"); err == nil {
		t.Error("the old identity's client is let in to the engine")
	}
	if _, err := g.run(first, "true"); err == nil {
		t.Error("the old identity's user is let in")
	}
	if answer, err := g.engine(second, "beta", "/v1.15/version"); err != nil || !strings.Contains(answer, "ApiVersion") {
		t.Errorf("a request of an old version is answered %q, %v", answer, err)
	}
	if out := ask(second, "hostname; cat /etc/machine-id; docker info -f '{{range .Labels}}{{println .}}{{end}}' | sort | xargs"); out != "beta\n"+strings.Repeat("b", 32)+"\nfrom=option who=beta\n" {
		t.Errorf("after another identity: %q", out)
	}

	identity.Proxies = map[string]string{"HTTP_PROXY": "http://192.168.127.254:3128"}
	g.become(20, identity)
	if out := ask(second, "echo $http_proxy; docker info -f '{{.HTTPProxy}}'; docker inspect -f '{{.State.Running}} {{.RestartCount}}' survivor"); out != "http://192.168.127.254:3128\nhttp://192.168.127.254:3128\ntrue 0\n" {
		t.Errorf("after another proxy: %q", out)
	}

	// A host that comes anew hears what is.
	ask(second, "docker run -d -p 8090:80 bb /bin/busybox sleep 1000000")
	before := g.hello(7)
	g.await(before, "the engine is told of", func(e guestapi.Event) bool { return e.EngineReady != nil })
	g.await(before, "the port is told of", func(e guestapi.Event) bool { return e.PortOpened != nil && e.PortOpened.Port == 8090 })
}
