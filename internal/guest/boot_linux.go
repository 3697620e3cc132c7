package guest

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/hyve-vm/hyve/internal/guest/account"
	"github.com/hyve-vm/hyve/internal/guest/door"
	"github.com/hyve-vm/hyve/internal/guest/engine"
	"github.com/hyve-vm/hyve/internal/guest/front"
	"github.com/hyve-vm/hyve/internal/guest/mount"
	"github.com/hyve-vm/hyve/internal/guest/outbox"
	"github.com/hyve-vm/hyve/internal/guest/process"
	"github.com/hyve-vm/hyve/internal/guest/publish"
	"github.com/hyve-vm/hyve/internal/guest/sshd"
	"github.com/hyve-vm/hyve/internal/guestapi"
)

// deviceTimeout bounds the wait for the disks and the channel, which the
// hypervisor has put there before the kernel started.
const deviceTimeout = 60 * time.Second

// Boot makes a machine of a kernel that has just started its PID 1, keeps it
// running, and powers it off when it is asked to. It does not return. What can
// go on at the same time does:
//
//  1. the kernel's file systems, and its news of devices
//  2. the modules of the root and the card; beside them the channel to the host
//  3. the image's root, and into it; the initramfs is freed
//  4. the rest of a system's file systems, device nodes, control groups, limits, sysctls
//  5. beside each other: containers' modules, then other processors' programs; the data disk, then containerd;
//     the configuration from the host, then the identity with the network
//  6. the doors: the engine's TLS front and SSH
//  7. bootsync.sh, dockerd, bootlocal.sh
//  8. until the end is asked for: services, requests, ports, the kernel's log
//  9. clean power-off (power_linux.go)
func Boot() {
	g, ctx, end := newGuest()
	defer g.dieOfPanic()
	step := func(phase string, err error) {
		if err != nil && ctx.Err() == nil {
			g.die(phase, err)
		}
	}
	g.out.Phase(guestapi.PhaseInit)
	step(guestapi.PhaseInit, mount.All(firstMounts))
	step(guestapi.PhaseInit, g.watch())
	g.spawn(func() { g.awaitPower(end) })

	devices, cancel := context.WithTimeout(ctx, deviceTimeout)
	defer cancel()
	step(guestapi.PhaseModules, g.together(
		func() error { g.note(loadModules("/modules.load")); return nil },
		func() error { return g.connect(devices) },
	))
	g.out.Phase(guestapi.PhaseModules)

	step(guestapi.PhaseRoot, enterRoot(devices, g.devices))
	g.out.Phase(guestapi.PhaseRoot)

	step(guestapi.PhaseRoot, g.setUpSystem())
	modules := g.begin(func() error {
		g.note(loadModules("/usr/lib/modules/engine.load"))
		g.note(setSysctls()) // those that came with the modules
		g.note(registerFormats())
		return nil
	})
	disk := g.begin(func() error { return g.setUpDisk(devices) })
	identity := g.begin(g.awaitIdentity)

	step(guestapi.PhaseNetwork, <-identity)
	step(guestapi.PhaseNetwork, g.openDoors())
	g.out.Phase(guestapi.PhaseNetwork)
	step(guestapi.PhaseDisk, <-disk)
	step(guestapi.PhaseEngine, <-modules)

	g.spawn(func() { g.note(g.keepDoors()) })
	g.runHook("bootsync.sh", bootsyncTimeout)
	id, _ := g.identity.now.get()
	if err := g.engine.StartDockerd(g.ctx, g.config.Engine, id); err != nil {
		g.fail(guestapi.PhaseEngine, err)
	}
	g.spawn(func() { g.runHook("bootlocal.sh", 0) })
	g.spawn(g.followKernelLog)
	g.spawn(g.watchDisk)
	g.spawn(g.followListeners)
	g.spawn(g.watchBusy)
	g.spawn(g.watchPowerButton)

	<-ctx.Done()
	g.powerOff(<-g.power)
}

// newGuest returns the guest before its first step. end ends ctx.
func newGuest() (g *guest, ctx context.Context, end context.CancelFunc) {
	ctx, end = context.WithCancel(context.Background())
	out := outbox.New(uptime)
	r := process.New()
	g = &guest{
		reaper: r, out: out, ctx: ctx,
		power:      make(chan guestapi.PowerOff, 1),
		configured: make(chan struct{}),
		front:      front.New(engine.Socket, out.Logf),
		ports:      publish.NewPorts(out),
	}
	g.engine = engine.New(engine.Config{Reaper: r, Out: out, Front: g.front, Ports: g.ports, Cgroup: cgroupHyve, RunDir: runDir})
	g.ssh = sshd.New(sshd.Config{Reaper: r, Cgroup: cgroupHyve + "/users", Logf: out.Logf, Environment: func() []string {
		id, _ := g.identity.now.get()
		return proxyEnvironment(id.Proxies)
	}})
	return g, ctx, end
}

// followListeners publishes what listens in the guest's own network.
func (g *guest) followListeners() {
	follower := &publish.Follower{Ports: g.ports, Reaper: g.reaper, Out: g.out, Cgroup: cgroupRoot, FrontPort: g.front.OtherPort, Card: func() netip.Addr {
		id, _ := g.identity.now.get()
		prefix, _ := netip.ParsePrefix(id.Network.Address)
		return prefix.Addr()
	}}
	follower.Run(g.ctx)
}

// begin runs f beside the rest; its error comes once it is done.
func (g *guest) begin(f func() error) <-chan error {
	done := make(chan error, 1)
	g.spawn(func() { done <- f() })
	return done
}

// watch listens for device events from before the first module is loaded.
func (g *guest) watch() error {
	var err error
	g.devices, err = watchDevices()
	return err
}

// connect opens the channel and talks to the host from then on.
func (g *guest) connect(ctx context.Context) error {
	f, err := g.devices.port(ctx, guestapi.Port)
	if err != nil {
		return err
	}
	stream, err := newPort(f)
	if err != nil {
		return err
	}
	bootID, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return fmt.Errorf("reading the boot's ID: %w", err)
	}
	c := &channel{bootID: strings.TrimSpace(string(bootID)), out: g.out, handle: g.handle, greeted: g.greeted}
	g.spawn(func() {
		// The port itself does not fail but by a fault of the hypervisor, after
		// which nobody could be told.
		err := c.serve(context.Background(), stream)
		fmt.Fprintf(os.Stderr, "hyve-init: %v\n", err)
	})
	return nil
}

// setUpSystem makes of the entered root a system on which services can run.
func (g *guest) setUpSystem() error {
	if err := mount.All(systemMounts); err != nil {
		return err
	}
	for link, target := range map[string]string{
		"/dev/fd": "/proc/self/fd", "/dev/stdin": "/proc/self/fd/0",
		"/dev/stdout": "/proc/self/fd/1", "/dev/stderr": "/proc/self/fd/2", "/dev/core": "/proc/kcore",
	} {
		if err := os.Symlink(target, link); err != nil && !errors.Is(err, os.ErrExist) {
			return fmt.Errorf("making %s: %w", link, err)
		}
	}
	os.Setenv("PATH", strings.TrimPrefix(process.Path, "PATH="))
	list, err := devname()
	if err == nil {
		err = g.devices.setUpNodes("/dev", list, "/etc/group")
	}
	g.note(err)
	g.note(setSysctls())
	g.note(raiseLimits())
	os.MkdirAll("/run/lock", 0o1777)
	if err := os.MkdirAll("/var/run", 0o755); err != nil {
		return fmt.Errorf("making /var/run: %w", err)
	}
	control, err := listenControl()
	if err != nil {
		return err
	}
	g.spawn(func() { g.serveControl(control) })
	if err := errors.Join(delegateCgroups(), loopbackUp()); err != nil {
		return err
	}
	g.note(errors.Join(g.hostAddress.Attach(cgroupRoot), publish.KeepOffDoors(cgroupHyve+"/dockerd")))
	return nil
}

// awaitIdentity waits for the host's configuration, for as long as it takes: a
// machine may be frozen here.
func (g *guest) awaitIdentity() error {
	select {
	case <-g.configured:
	case <-g.ctx.Done():
		return g.ctx.Err()
	}
	return g.applyIdentity(g.config.Identity)
}

// openDoors listens for the engine's clients and for SSH.
func (g *guest) openDoors() error {
	var err error
	if g.ssh.Account, err = account.Lookup(sshd.User, "/etc/passwd", "/etc/group"); err != nil {
		return err
	}
	for port, serve := range map[uint16]func(net.Listener){
		guestapi.EnginePort: g.front.Serve,
		guestapi.SSHPort:    g.ssh.Serve,
	} {
		l, err := door.Listen(port)
		if err != nil {
			return err
		}
		g.spawn(func() { serve(l) })
		context.AfterFunc(g.ctx, func() { l.Close() })
	}
	return nil
}

// keepDoors sees to it that the host finds the guest's doors, and no container that is
// published on one of their ports: dockerd has the kernel pass that on. Such a port is
// served elsewhere (ports.inGuest). hyve's own connections come from the host's address,
// those of others from the gateway's.
func (g *guest) keepDoors() error {
	id, _ := g.identity.now.get()
	for _, port := range []uint16{guestapi.EnginePort, guestapi.SSHPort} {
		_, err := g.reaper.Run(nil, "/usr/sbin/iptables", "--wait", "-t", "nat", "-I", "PREROUTING",
			"-s", id.Network.Gateway+","+id.Network.Host, "-p", "tcp", "--dport", strconv.Itoa(int(port)), "-j", "ACCEPT")
		if err != nil {
			return fmt.Errorf("keeping the way to port %d free: %w", port, err)
		}
	}
	return nil
}

// Run is hyve-init: PID 1 of the guest, docker-proxy's stand-in, or one of the
// commands that ask PID 1 for something, by the name it is called. It returns
// the exit status.
func Run(argv []string) int {
	// dockerd's proxies come first: they are on the way of every published port.
	if strings.HasSuffix(argv[0], "hyve-docker-proxy") || argv[0] == "docker-proxy" {
		fmt.Fprintf(os.Stderr, "hyve-docker-proxy: %v\n", publish.RunProxy(argv, controlSocket))
		return 1
	}
	// As what cannot be run: this process is perhaps the first of a container.
	if argv[0] == foreignPath {
		return runForeign(argv)
	}
	if unix.Getpid() == 1 {
		Boot()
	}
	line, ok := commandLine(argv)
	if !ok {
		fmt.Fprintln(os.Stderr, "hyve-init: this is PID 1 of a hyve machine, and not for any other use")
		return 2
	}
	if err := ask(line); err != nil {
		fmt.Fprintf(os.Stderr, "%s: %v\n", argv[0], err)
		return 1
	}
	return 0
}
