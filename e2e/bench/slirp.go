package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/hyve-vm/hyve/internal/guestapi"
	"github.com/hyve-vm/hyve/internal/hypervisor"
	"github.com/hyve-vm/hyve/internal/hypervisor/qemu"
	"github.com/hyve-vm/hyve/internal/pki"
)

// slirp measures what throughput does, of the same guest on QEMU's own
// user-mode network.
func (b *bench) slirp() error {
	dir := filepath.Join(b.work, "slirp")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	config, err := b.slirpIdentity(dir)
	if err != nil {
		return err
	}
	ports, err := freePorts(2)
	if err != nil {
		return err
	}
	vm, channel, err := b.startSlirp(dir, ports)
	if err != nil {
		return err
	}
	defer func() { vm.Process.Kill(); vm.Wait() }()
	if err := converse(channel, config); err != nil {
		return err
	}
	docker := func(args ...string) (string, error) {
		return b.output(b.docker, append([]string{"-H", "tcp://127.0.0.1:" + ports[0], "--tlsverify",
			"--tlscacert", dir + "/ca.pem", "--tlscert", dir + "/cert.pem", "--tlskey", dir + "/key.pem"}, args...)...)
	}
	err = b.measure("slirp", docker, "127.0.0.1:"+ports[1], "10.0.2.2")
	if err != nil { // its directory goes
		console, _ := os.ReadFile(consoleOf(dir))
		err = fmt.Errorf("%w\nits console ends:\n%s", err, console[max(0, len(console)-2000):])
	}
	return err
}

func consoleOf(dir string) string { return filepath.Join(dir, "console.log") }

func (b *bench) slirpIdentity(dir string) (guestapi.Config, error) {
	ca, err := pki.OpenCA(filepath.Join(b.work, "pki"))
	if err != nil {
		return guestapi.Config{}, err
	}
	server, err := ca.Server(dir, []string{"slirp"}, []netip.Addr{netip.MustParseAddr("127.0.0.1")})
	if err != nil {
		return guestapi.Config{}, err
	}
	host, err := pki.OpenSSHKey(filepath.Join(dir, "host"))
	if err != nil {
		return guestapi.Config{}, err
	}
	return guestapi.Config{Identity: guestapi.Identity{
		Name: "slirp", ID: strings.Repeat("1", 32), Clock: guestapi.ClockNow(), Seed: make([]byte, 32),
		Network: guestapi.Network{MAC: "5a:94:ef:e4:0c:ee", Address: "10.0.2.15/24", Gateway: "10.0.2.2", MTU: 1500},
		CA:      string(ca.PEM()), ServerCert: string(server.CertPEM), ServerKey: string(server.KeyPEM),
		SSHHostKey:      string(host.PEM),
		RegistryMirrors: []string{strings.Replace(b.mirror, "host.docker.internal", "10.0.2.2", 1)},
	}}, ca.Export(dir)
}

// startSlirp starts the VM as hyve would, but for its network. ports[0] leads to
// its engine, ports[1] to its port 5001.
func (b *bench) startSlirp(dir string, ports []string) (vm *exec.Cmd, channel net.Conn, err error) {
	img, q, accel, err := b.parts()
	if err != nil {
		return nil, nil, err
	}
	disk := filepath.Join(dir, "disk.img")
	if err := errors.Join(os.WriteFile(disk, nil, 0o600), os.Truncate(disk, 16<<30)); err != nil {
		return nil, nil, err
	}
	l, err := net.Listen("unix", filepath.Join(dir, "guest.sock"))
	if err != nil {
		return nil, nil, err
	}
	defer l.Close()
	card, err := net.Listen("unix", filepath.Join(dir, "none")) // on which nothing comes
	if err != nil {
		return nil, nil, err
	}
	defer card.Close()
	features := q.Features(accel)
	cfg := hypervisor.Config{
		Name: "slirp", CPUs: 2, Memory: 2 << 30, Kernel: img.Kernel(), Initrd: img.Initrd(),
		Cmdline: "console=hvc0 quiet " + img.Manifest.Cmdline + " " + qemu.KernelCmdline(features),
		Disks: []hypervisor.Disk{
			{Serial: guestapi.RootDisk, Path: img.Root(), ReadOnly: true},
			{Serial: guestapi.DataDisk, Path: disk},
		},
		Channels: []hypervisor.Channel{{Name: guestapi.Port, Socket: l.Addr().String()}},
		Network:  hypervisor.Network{Socket: card.Addr().String(), MAC: "5a:94:ef:e4:0c:ee", MTU: 1500},
		Console:  true,
	}
	args := qemu.Args(cfg, features)
	for i, arg := range args {
		if arg == "-netdev" {
			args[i+1] = fmt.Sprintf("user,id=network,hostfwd=tcp:127.0.0.1:%s-:2376,hostfwd=tcp:127.0.0.1:%s-:5001", ports[0], ports[1])
		}
	}
	// -S waits for a supervisor to let the VM go on; there is none.
	args = slices.DeleteFunc(args, func(arg string) bool { return arg == "-S" })
	vm = exec.Command(q.Path, args...)
	monitor, _, err := socketPair()
	if err != nil {
		return nil, nil, err
	}
	defer monitor.Close()
	console, screen, err := socketPair()
	if err != nil {
		return nil, nil, err
	}
	defer console.Close()
	log, err := os.Create(consoleOf(dir))
	if err != nil {
		return nil, nil, err
	}
	go io.Copy(log, screen)
	files, err := qemu.Open(context.Background(), cfg, features)
	if err != nil {
		return nil, nil, err
	}
	defer func() {
		for _, file := range files {
			file.Close()
		}
	}()
	vm.ExtraFiles = append([]*os.File{monitor, console}, files...)
	vm.Stderr = os.Stderr
	if err := vm.Start(); err != nil {
		return nil, nil, err
	}
	l.(*net.UnixListener).SetDeadline(time.Now().Add(time.Minute))
	if channel, err = l.Accept(); err != nil {
		vm.Process.Kill()
		return nil, nil, errors.Join(err, vm.Wait())
	}
	return vm, channel, nil
}

// socketPair is a connection to QEMU: its end and ours, which stays open with this
// process.
func socketPair() (theirs, ours *os.File, err error) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, err
	}
	return os.NewFile(uintptr(pair[0]), "qemu"), os.NewFile(uintptr(pair[1]), "bench"), nil
}

// converse configures the guest and returns when its engine is ready; what else
// it says is answered in the background.
func converse(channel net.Conn, config guestapi.Config) error {
	out := guestapi.NewWriter[guestapi.Request](channel)
	in := guestapi.NewReader[guestapi.Event](channel)
	if err := out.Write(guestapi.Request{Hello: &guestapi.Hello{Version: guestapi.Version, Session: 1}}); err != nil {
		return err
	}
	for {
		event, err := in.Read()
		switch {
		case err != nil:
			return fmt.Errorf("waiting for the slirp VM: %w", err)
		case event.Hello != nil:
			if err := out.Write(guestapi.Request{Configure: &config}); err != nil {
				return err
			}
		case event.Failed != nil:
			return fmt.Errorf("the slirp VM: %s: %s", event.Failed.Phase, event.Failed.Cause)
		case event.EngineReady != nil:
			go func() {
				for {
					event, err := in.Read()
					if err != nil {
						return
					}
					if port := event.PortOpened; port != nil {
						out.Write(guestapi.Request{PortAck: &guestapi.PortAck{ID: port.ID}})
					}
				}
			}()
			return nil
		}
	}
}

// freePorts returns ports of loopback that are free now.
func freePorts(n int) (ports []string, err error) {
	for range n {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, err
		}
		defer l.Close()
		_, port, _ := net.SplitHostPort(l.Addr().String())
		ports = append(ports, port)
	}
	return ports, nil
}
