package supervisor

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/hyve-vm/hyve/internal/accept"
	"github.com/hyve-vm/hyve/internal/control"
	"github.com/hyve-vm/hyve/internal/dockerenv"
	"github.com/hyve-vm/hyve/internal/guestapi"
	"github.com/hyve-vm/hyve/internal/network"
)

// Ports of the machine's own address on the host. On macOS all machines share
// one address; whoever comes second gets other ports.
const (
	enginePort = 2376
	sshPort    = 2222
)

// serveEngine opens the ways to the engine and to the SSH server: Docker's API
// on the private socket, mutual TLS on the machine's address, SSH on both. All but the
// first lead straight to the guest, which nobody is to meet before it is this machine: who
// comes earlier than forwardGuestPorts is called waits.
func (s *supervisor) serveEngine(ctx context.Context) error {
	tcp, err := s.listenNear("the engine", enginePort)
	if err != nil {
		return err
	}
	ssh, err := s.listenNear("SSH", sshPort)
	if err != nil {
		tcp.Close()
		return err
	}
	for _, door := range []net.Listener{tcp, ssh} {
		s.net.Reserve(netip.MustParseAddrPort(door.Addr().String()))
	}
	s.forwardGuestPorts = sync.OnceFunc(func() {
		for l, port := range map[net.Listener]uint16{tcp: guestapi.EnginePort, ssh: guestapi.SSHPort, s.sockets.ssh: guestapi.SSHPort} {
			if _, err := s.net.ForwardTCP(l, port); err != nil {
				s.log.Error("letting clients in", "error", err)
			}
		}
	})
	go forward(ctx, door(maxClients, 16, s.log), s.sockets.docker, s.whenReachable(s.overTLS(s.dialGuest)))
	s.board.set(func(st *control.Status) {
		st.Endpoints = control.Endpoints{
			Docker: "unix://" + s.machine.Dir().DockerSocket(),
			TCP:    "tcp://" + tcp.Addr().String(),
			SSH:    ssh.Addr().String(),
		}
	})
	return nil
}

// listenNear listens on a port of the machine's address, or on any of it where that is
// taken. An address that is this machine's alone should have its ports: who has taken one
// is a problem.
func (s *supervisor) listenNear(what string, port uint16) (net.Listener, error) {
	wanted := netip.AddrPortFrom(s.machine.Address, port)
	l, err := accept.Listen(wanted)
	if err == nil {
		return l, nil
	}
	if l, err = accept.Listen(netip.AddrPortFrom(s.machine.Address, 0)); err != nil {
		return nil, fmt.Errorf("listening on the machine's address: %w", err)
	}
	if s.machine.Address != netip.AddrFrom4([4]byte{127, 0, 0, 1}) {
		holder := network.HeldBy(wanted)
		if holder == "" {
			holder = "another program"
		}
		s.board.problem(fmt.Sprintf("%s has %s, where %s of this machine should be; it answers on %s", holder, wanted, what, l.Addr()))
	}
	return l, nil
}

// whenReachable wraps a dialer of the guest's front: it waits until the engine is ready,
// so that a client that comes early is served late rather than refused.
func (s *supervisor) whenReachable(dial dialer) dialer {
	return func(ctx context.Context) (net.Conn, error) {
		if err := s.reachable.wait(ctx); err != nil {
			return nil, err
		}
		if conn := s.warmConn.take(); conn != nil {
			return conn, nil
		}
		return dial(ctx)
	}
}

func (s *supervisor) dialGuest(ctx context.Context) (net.Conn, error) {
	return s.net.DialGuest(ctx, guestapi.EnginePort)
}

// A gate is shut at first.
type gate struct {
	onWait func() // is called when somebody has to wait

	mu     sync.Mutex
	opened chan struct{} // closed when it is open; nil before anybody waits
	free   bool
}

func (g *gate) open() { g.set(true) }
func (g *gate) shut() { g.set(false) }

func (g *gate) set(open bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.free = open
	if open && g.opened != nil {
		close(g.opened)
		g.opened = nil
	}
}

// wait waits until the gate is open.
func (g *gate) wait(ctx context.Context) error {
	g.mu.Lock()
	if g.free {
		g.mu.Unlock()
		return nil
	}
	if g.opened == nil {
		g.opened = make(chan struct{})
	}
	opened := g.opened
	g.mu.Unlock()
	g.onWait()
	select {
	case <-opened:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// A warmConn is a connection to the guest's front that was made before anybody asked for
// one: while dockerd starts, a thawed guest gets its identity, or whoever started the
// machine is about to call docker, a processor is idle, and under emulation a handshake
// takes long.
type warmConn struct {
	mu   sync.Mutex // held while it is made
	conn net.Conn
}

const (
	warmConnBound = 20 * time.Second // of making it
	warmConnKept  = 5 * time.Second  // of keeping it, once the engine is ready
)

// hold makes it, unless there is one.
func (r *warmConn) hold(ctx context.Context, dial dialer) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.conn != nil {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, warmConnBound)
	defer cancel()
	if conn, err := dial(ctx); err == nil {
		r.conn = conn
	}
}

// take returns the connection to the first who asks, nil to others.
func (r *warmConn) take() net.Conn {
	r.mu.Lock()
	defer r.mu.Unlock()
	conn := r.conn
	r.conn = nil
	return conn
}

// forget hangs up.
func (r *warmConn) forget() {
	if conn := r.take(); conn != nil {
		conn.Close()
	}
}

// reachEngine makes sure that the engine answers on the way that a docker client takes,
// and tells so.
func (s *supervisor) reachEngine(ctx context.Context, vm *machineVM) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	version, err := dockerenv.Ping(ctx, s.machine.Dir().DockerSocket())
	if err != nil {
		err = fmt.Errorf("it is up but cannot be reached: %w", err)
	} else {
		// Before anybody hears of the engine: what is done with it is not to be undone.
		err = s.machine.Dir().EndUpgrade()
		// Who then looks sees what was set while the machine started. What cannot be told now
		// is tried once more when it is up, and said.
		if told := s.tellSettings(ctx); told != nil {
			s.log.Warn("telling settings before the engine is up", "cause", told)
		}
	}
	if err != nil {
		s.log.Error("the engine cannot be used", "error", err)
		s.inbox.post(message{kind: trouble, vm: vm, failure: &guestapi.Failed{Phase: guestapi.NewText(guestapi.PhaseEngine), Cause: guestapi.NewProse(err.Error())}})
		return
	}
	s.inbox.post(message{kind: engineIsUp, vm: vm, version: version})
}

// engineAnswers publishes that the engine can be used. After a reboot of the guest it is
// called again.
func (s *supervisor) engineAnswers(version string) {
	go func() {
		s.warmUp()
		time.AfterFunc(warmConnKept, s.warmConn.forget)
	}()
	s.board.recovered(guestapi.PhaseEngine)
	s.board.step("ready", "")
	up := s.session.run.engineUp // or it has ended meanwhile
	s.board.set(func(st *control.Status) {
		st.State, st.Activity = control.Running, ""
		if up {
			st.EngineVersion, st.Failure = guestapi.NewText(version).String(), nil
		}
	})
	s.log.Info("ready", "engine", guestapi.NewText(version), "after", time.Since(s.board.start()).Round(time.Millisecond))
}

// warmUp makes a connection for the first who asks for one.
func (s *supervisor) warmUp() { s.warmConn.hold(s.ctx, s.overTLS(s.dialGuest)) }
