// Package door lets clients of the guest in that show who they are, however many come that do not.
package door

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"runtime/debug"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hyve-vm/hyve/internal/accept"
)

// How many connections may be at a door at one time whose client has not yet shown who it
// is, as OpenSSH's MaxStartups. Each takes some 30 KiB. Everybody who comes by the doors on
// the host has one address, each container its own; what comes by hyve's own sockets,
// which nobody else can open, is counted apart.
const (
	maxStartups   = 512
	startupsShare = 256 // of one address
	ownStartups   = 128
)

// refusalPause is how often a door logs that it refuses somebody: strangers bring it about.
const refusalPause = 10 * time.Second

// A Door lets clients in that show who they are.
type Door struct {
	patience    time.Duration // how long it may take to find out who somebody is
	others, own *accept.Budget
	host        atomic.Pointer[string] // the address by which hyve's own sockets come
	log         func(string, ...any)

	mu     sync.Mutex
	logged time.Time // when Logf logged last
	silent int       // lines that it has kept back since
}

// New returns a door at which a client may take that long to show who it is.
func New(patience time.Duration, logf func(string, ...any)) *Door {
	return &Door{patience: patience, log: logf, others: accept.NewBudget(maxStartups, startupsShare), own: accept.NewBudget(ownStartups, ownStartups)}
}

// Listen listens on a TCP port of every address of the guest.
func Listen(port uint16) (net.Listener, error) {
	l, err := accept.Listen(netip.AddrPortFrom(netip.IPv4Unspecified(), port))
	if err != nil {
		return nil, fmt.Errorf("listening on port %d: %w", port, err)
	}
	return l, nil
}

// SetHost says by which address hyve's own sockets come.
func (d *Door) SetHost(address string) { d.host.Store(&address) }

// Serve accepts connections until l is closed. greet finds out who a client is and
// returns what serves it, or nil to hang up on it.
func (d *Door) Serve(l net.Listener, greet func(net.Conn) func()) {
	accepting := accept.Door{Log: slog.New(slog.NewTextHandler(logWriter(d.log), nil))}
	accepting.Serve(context.Background(), l, func(conn net.Conn) { d.receive(conn, greet) })
}

func (d *Door) receive(conn net.Conn, greet func(net.Conn) func()) {
	defer conn.Close()
	defer LogPanic(d.log)
	source := accept.Source(conn)
	budget := d.others
	if host := d.host.Load(); host != nil && source == *host {
		budget = d.own
	}
	if !budget.Take(source) {
		d.Logf("refusing a client at %s: there are too many that do not say who they are", source)
		if tcp, ok := conn.(*net.TCPConn); ok {
			tcp.SetLinger(0)
		}
		return
	}
	serve := func() func() {
		defer budget.Give(source)
		conn.SetDeadline(time.Now().Add(d.patience))
		defer conn.SetDeadline(time.Time{})
		return greet(conn)
	}()
	if serve != nil {
		serve()
	}
}

// Logf logs what a stranger has brought about, a line in refusalPause.
func (d *Door) Logf(format string, args ...any) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if time.Since(d.logged) < refusalPause {
		d.silent++
		return
	}
	line := fmt.Sprintf(format, args...)
	if d.silent > 0 {
		line += fmt.Sprintf(" (and %d times more before)", d.silent)
	}
	d.log("%s", line)
	d.logged, d.silent = time.Now(), 0
}

// A logWriter logs what is written to it, a line at a time.
type logWriter func(string, ...any)

func (w logWriter) Write(b []byte) (int, error) {
	w("%s", strings.TrimRight(string(b), "\n"))
	return len(b), nil
}

// LogPanic keeps a panic over one connection from ending the machine.
func LogPanic(logf func(string, ...any)) {
	if r := recover(); r != nil {
		logf("serving a connection panicked: %v\n%s", r, debug.Stack())
	}
}
