package supervisor

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/hyve-vm/hyve/internal/control"
	"github.com/hyve-vm/hyve/internal/dockerenv"
	"github.com/hyve-vm/hyve/internal/guestapi"
)

// Ports of the machine's own address on the host. On macOS all machines share
// one address; whoever comes second gets other ports.
const (
	enginePort = 2376
	sshPort    = 2222
)

// serveEngine opens the ways to the engine and to the SSH server: Docker's API
// on the private socket, mutual TLS on the machine's address, SSH on both.
func (s *supervisor) serveEngine(ctx context.Context) error {
	tcp, err := listenNear(s.machine.Address, enginePort)
	if err != nil {
		return err
	}
	ssh, err := listenNear(s.machine.Address, sshPort)
	if err != nil {
		tcp.Close()
		return err
	}
	for _, f := range []struct {
		l    net.Listener
		port uint16
	}{{tcp, guestapi.EnginePort}, {ssh, guestapi.SSHPort}, {s.sockets.ssh, guestapi.SSHPort}} {
		if _, err := s.net.ForwardTCP(f.l, f.port); err != nil {
			return err
		}
	}
	go forward(ctx, s.sockets.docker, s.overTLS(s.dialEngine), s.log)
	s.board.set(func(st *control.Status) {
		st.Endpoints = control.Endpoints{
			Docker: "unix://" + s.machine.Dir().DockerSocket(),
			TCP:    "tcp://" + tcp.Addr().String(),
			SSH:    ssh.Addr().String(),
		}
	})
	return nil
}

// listenNear listens on a port of address, or on any of it where that is taken.
func listenNear(address netip.Addr, port uint16) (net.Listener, error) {
	l, err := net.Listen("tcp", netip.AddrPortFrom(address, port).String())
	if err != nil {
		l, err = net.Listen("tcp", netip.AddrPortFrom(address, 0).String())
	}
	if err != nil {
		return nil, fmt.Errorf("listening on the machine's address: %w", err)
	}
	return l, nil
}

// dialEngine waits until the engine is ready, so that a client that comes early
// is served late rather than refused.
func (s *supervisor) dialEngine(ctx context.Context) (net.Conn, error) {
	select {
	case <-s.reachable:
		return s.net.DialGuest(ctx, guestapi.EnginePort)
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// rehearse shakes hands with the guest's front before anybody waits for it: while
// dockerd starts, or a thawed guest gets its identity, a processor is idle, and under
// emulation the first handshake takes long.
func (s *supervisor) rehearse(ctx context.Context) {
	conn, err := s.overTLS(func(ctx context.Context) (net.Conn, error) {
		return s.net.DialGuest(ctx, guestapi.EnginePort)
	})(ctx)
	if err == nil {
		conn.Close()
	}
}

// engineReady makes sure that the engine answers on the way that a docker
// client takes, and publishes that the machine runs. After a reboot of the guest
// it is called again.
func (s *supervisor) engineReady(ctx context.Context) {
	s.openOnce.Do(func() { close(s.reachable) })
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	version, err := dockerenv.Ping(ctx, s.machine.Dir().DockerSocket())
	if err != nil {
		s.guest.fail(&guestapi.Failed{Phase: guestapi.PhaseEngine, Cause: "it is up but cannot be reached: " + err.Error()})
		return
	}
	s.board.step("ready", "")
	s.board.set(func(st *control.Status) {
		if st.State == control.Starting {
			st.State, st.Activity = control.Running, ""
		}
		st.EngineVersion = version
	})
	s.log.Info("ready", "engine", version, "after", time.Since(s.board.began).Round(time.Millisecond))
}
