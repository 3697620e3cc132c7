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

// errBeyondLoopback is the cause of a Problem that lasts.
var errBeyondLoopback = errors.New("it is beyond the host's loopback")

// A Problem is a published port that is not reachable where it should be. The
// machine runs on without it.
type Problem struct {
	Protocol string         // "tcp", "udp"
	Address  netip.AddrPort // of the host
	Cause    error          // a syscall.Errno, most likely; comparable
}

// Error implements error.
func (p Problem) Error() string {
	return fmt.Sprintf("publishing %s port %d on %s: %v", p.Protocol, p.Address.Port(), p.Address.Addr(), p.Cause)
}

// Unwrap returns the cause.
func (p Problem) Unwrap() error { return p.Cause }

// Hint says what can be done about it, or nothing.
func (p Problem) Hint() string {
	switch port := p.Address.Port(); {
	case p.Cause == errBeyondLoopback:
		return "publish it on 127.0.0.1, or without an address"
	case p.Cause == syscall.EACCES && port < 1024 && runtime.GOOS == "darwin":
		return "macOS lets ordinary users bind ports below 1024 on all addresses at once only; publish a port from 1024 on"
	case p.Cause == syscall.EACCES && port < 1024:
		return fmt.Sprintf("let ordinary users bind it with: sudo sysctl net.ipv4.ip_unprivileged_port_start=%d; or publish a port from 1024 on", port)
	case p.Cause == syscall.EADDRINUSE:
		return "another program or machine has the port; hyve takes it over when it becomes free"
	case p.Cause == syscall.EADDRNOTAVAIL:
		return "the host does not have this address now; hyve binds it when it does"
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
	if err == errBeyondLoopback {
		return err
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
