package network

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"runtime"
	"strings"
	"syscall"
)

// A beyondError is about an address that is not the machine's to listen on.
type beyondError struct {
	hostIP  string
	machine netip.Addr
}

func (e beyondError) Error() string {
	return fmt.Sprintf("the host's address %.50q is not this machine's: it publishes on %s, 127.0.0.1 and ::1", e.hostIP, e.machine)
}

// Hint says what to do instead.
func (e beyondError) Hint() string { return "publish it without an address" }

// A Problem is a published port that is not reachable where it should be. The
// machine runs on without it.
type Problem struct {
	Protocol string         // "tcp", "udp", "udplite", "sctp"
	Address  netip.AddrPort // of the host
	Cause    error          // a syscall.Errno, most likely; comparable
	Holder   Holder         // who has the port, where that is known
}

// A Holder is who listens on a port of the host.
type Holder struct {
	Machine string // name of another machine, if it is one
	Who     string // for people; empty if nobody can tell
}

// A Refusal is a port that cannot be had where it was asked for.
type Refusal struct{ Problem Problem }

// Error says it as docker does of a port that is taken, and by whom.
func (r *Refusal) Error() string {
	text := fmt.Sprintf("bind: %v", r.Problem.Cause)
	if r.Problem.Holder.Who == "" {
		return fmt.Sprintf("%s (%s of the host)", text, r.Problem.Address)
	}
	return fmt.Sprintf("%s (%s of the host is held by %s)", text, r.Problem.Address, r.Problem.Holder.Who)
}

// Unwrap returns the cause.
func (r *Refusal) Unwrap() error { return r.Problem.Cause }

// Hint says what can be done about a port that nobody has, or nothing.
func (r *Refusal) Hint() string {
	if r.Problem.Cause == syscall.EACCES {
		return r.Problem.Hint()
	}
	return ""
}

// HeldBy says who listens on a TCP port of the host, for people; empty if nobody can tell.
func HeldBy(addr netip.AddrPort) string { return holderOf("tcp", addr).Who }

// Error implements error.
func (p Problem) Error() string {
	text := fmt.Sprintf("publishing %s port %d on %s: %v", p.Protocol, p.Address.Port(), p.Address.Addr(), p.Cause)
	if p.Holder.Who != "" {
		text += ", held by " + p.Holder.Who
	}
	return text
}

// Unwrap returns the cause.
func (p Problem) Unwrap() error { return p.Cause }

// Hint says what can be done about it, or nothing.
func (p Problem) Hint() string {
	switch port := p.Address.Port(); {
	case p.Cause == syscall.EACCES && port < 1024 && runtime.GOOS == "darwin":
		return "macOS lets ordinary users bind ports below 1024 on all addresses at once only; publish a port from 1024 on"
	case p.Cause == syscall.EACCES && port < 1024:
		return fmt.Sprintf("let ordinary users bind it with: sudo sysctl net.ipv4.ip_unprivileged_port_start=%d; or publish a port from 1024 on", port)
	case p.Cause == syscall.EADDRINUSE:
		return "another program or machine has the port; hyve takes it over when it becomes free"
	case p.Cause == syscall.EADDRNOTAVAIL:
		return "the host does not have this address now; hyve binds it when it does"
	case p.Cause == syscall.EPROTONOSUPPORT:
		return "tcp and udp can be published to the host; " + p.Protocol + " is served in the machine alone"
	}
	return ""
}

// cause returns what is at the bottom of an error of package net, comparable
// and without the address, which a Problem has already.
func cause(err error) error {
	var errno syscall.Errno
	if errors.As(err, &errno) {
		return errno
	}
	var sys *os.SyscallError
	if errors.As(err, &sys) {
		return sys.Err
	}
	return textError(strings.TrimSpace(err.Error()))
}

// textError is comparable by its text.
type textError string

func (e textError) Error() string { return string(e) }

// missingFamily tells a host without IPv6 from a problem.
func missingFamily(a netip.Addr, err error) bool {
	if a != netip.IPv6Loopback() && a != netip.IPv6Unspecified() {
		return false
	}
	return errors.Is(err, syscall.EADDRNOTAVAIL) || errors.Is(err, syscall.EAFNOSUPPORT) || errors.Is(err, syscall.EPROTONOSUPPORT)
}
