// Package network is a machine's way in and out, without root and in the
// supervisor's own process: a TCP/IP stack in user space (gVisor's) at the other
// end of the VM's one card.
//
// The guest sees an Ethernet with a gateway that answers DNS, and behind the
// gateway whatever the host can reach: every connection of the guest ends here
// and goes on as an ordinary socket of the host, so routes, VPNs and firewalls
// of the host apply by themselves. The other way round, [Network.DialGuest] and
// the ports that [Network.Publish] binds on the host reach the guest's TCP and
// UDP ports.
//
// What the guest reaches, policy.go: the Internet and the host's networks, as
// any process of the user does; the host's 127.0.0.1 as [HostIP], unless
// [HostAccess] says otherwise; the machine's own address on the host as [AliasIP];
// the DNS of the gateway, and nothing else of the gateway: it has no API. Not
// reachable are the rest of the host's loopback (so neither another machine's own
// address nor ports bound to it), the metadata services of clouds (link-local
// addresses and a list), multicast and broadcast.
//
// Nothing is remembered about the outside world: no DNS answers, no name
// servers, no routes. A host that slept or changed its network needs no
// announcement.
package network

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip/stack"

	"github.com/hyve-vm/hyve/internal/accept"
	"github.com/hyve-vm/hyve/internal/network/dns"
)

// The virtual network, the same in every machine, so that a machine thawed from
// another's memory finds itself at home. A network of the host with the same
// addresses is out of the guest's reach. The guest's card must have GuestMAC:
// nobody asks it by ARP.
const (
	Subnet    = "192.168.127.0/24"
	GatewayIP = "192.168.127.1"   // also the name server
	GuestIP   = "192.168.127.2"   // the guest's card
	HostIP    = "192.168.127.254" // the host's 127.0.0.1 as the guest sees it
	AliasIP   = "192.168.127.253" // Config.MachineIP as the guest sees it

	GuestCIDR = GuestIP + "/24"

	GatewayMAC = "5a:94:ef:e4:0c:dd"
	GuestMAC   = "5a:94:ef:e4:0c:ee"

	// Names of the host and of the gateway in the guest's DNS.
	HostName    = dns.HostName
	GatewayName = dns.GatewayName
)

// Bounds of Config.MTU in bytes, and its default. The upper bound is the largest
// IPv4 packet, less what aligns it; the lower one is what IPv6 would ask for.
const (
	MinMTU     = 1280
	DefaultMTU = 65520
	MaxMTU     = 65520
)

var (
	subnet     = netip.MustParsePrefix(Subnet)
	gatewayIP  = netip.MustParseAddr(GatewayIP)
	guestIP    = netip.MustParseAddr(GuestIP)
	hostIP     = netip.MustParseAddr(HostIP)
	aliasIP    = netip.MustParseAddr(AliasIP)
	loopback4  = netip.AddrFrom4([4]byte{127, 0, 0, 1})
	broadcast4 = netip.AddrFrom4([4]byte{192, 168, 127, 255})
)

// ErrNoGuest is returned by dials while no VM is connected.
var ErrNoGuest = errors.New("the VM's network card is not connected")

// ErrClosed is returned by everything after Close.
var ErrClosed = errors.New("the network is closed")

// Config says how one machine's network differs from another's. The zero value
// works.
type Config struct {
	// MTU of the guest's card in bytes, the Ethernet header not counted;
	// 0 means DefaultMTU. The guest must be told the same.
	MTU int

	// MachineIP is the machine's own loopback address on the host, from
	// 127.0.0.0/8; the zero Addr means 127.0.0.1.
	MachineIP netip.Addr

	// HostAccess is what of the host the guest reaches; see SetHostAccess.
	HostAccess HostAccess

	// OnProblem, if set, is told when a published port cannot be bound and,
	// with solved true, when that has ended. The calls come one at a time, in
	// order, from a goroutine of their own; they may use the Network but not
	// Close it.
	OnProblem func(p Problem, solved bool)

	// Log receives what would help to understand a broken network; nil is
	// silence.
	Log *slog.Logger
}

func (c *Config) check() error {
	if c.MTU == 0 {
		c.MTU = DefaultMTU
	}
	if c.MTU < MinMTU || c.MTU > MaxMTU {
		return fmt.Errorf("MTU %d, must be between %d and %d", c.MTU, MinMTU, MaxMTU)
	}
	if !c.MachineIP.IsValid() {
		c.MachineIP = loopback4
	}
	if !c.MachineIP.Is4() || !c.MachineIP.IsLoopback() {
		return fmt.Errorf("machine address %s, must be in 127.0.0.0/8", c.MachineIP)
	}
	if runtime.GOOS == "darwin" && c.MachineIP != loopback4 {
		return fmt.Errorf("machine address %s, macOS has 127.0.0.1 only", c.MachineIP)
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	return nil
}

// A Network is one machine's virtual network. All methods may be called from
// any goroutine.
type Network struct {
	config Config
	link   *link
	stack  *stack.Stack
	ports  *publisher
	udp    udpTable
	pings  pinger

	traffic traffic
	access  atomic.Pointer[HostAccess]

	// What the guest and its peers may hold.
	pool         pool           // of bytes
	conns        conns          // TCP connections
	dials        *crowd         // connections of the guest that are being made
	outbound     *crowd         // those that are made
	inbound      *accept.Budget // connections of the host to published ports
	inboundLimit int
	listened     *accept.Budget // published ports
	lookups      *accept.Budget // sockets that ask name servers

	ctx    context.Context // ends with Close
	cancel context.CancelFunc
	wg     sync.WaitGroup // every goroutine that was started with spawn
	once   sync.Once

	mu     sync.Mutex // orders spawn and Close
	closed bool
}

// New makes the network. It listens nowhere on the host until Publish. Close
// frees what it holds.
func New(config Config) (*Network, error) {
	if err := config.check(); err != nil {
		return nil, fmt.Errorf("making the network: %w", err)
	}
	n := &Network{config: config, traffic: traffic{began: time.Now()}, link: newLink(uint32(config.MTU)), udp: udpTable{start: time.Now()}}
	n.ctx, n.cancel = context.WithCancel(context.Background())
	n.ports = newPublisher(n)
	n.pings.n, n.conns.n = n, n
	n.link.hear = n.conns.hear
	n.access.Store(&config.HostAccess)
	n.limit(accept.Descriptors())
	n.link.ping = n.pings.echo
	var err error
	if n.stack, err = newStack(n.link); err != nil {
		n.cancel()
		return nil, fmt.Errorf("making the network: %w", err)
	}
	n.handleOutbound()
	if err = n.serveDNS(); err != nil {
		_ = n.Close()
		return nil, fmt.Errorf("making the network: %w", err)
	}
	return n, nil
}

// MTU returns the MTU in bytes that the guest's card must have.
func (n *Network) MTU() int { return n.config.MTU }

// Serve accepts the hypervisor's connections on l. On a connection each Ethernet
// frame comes after 32 bits of its length, big endian. There is one
// guest, so a second connection, which a new hypervisor process opens after a
// thaw, replaces the first. When a connection ends or is replaced, every TCP
// connection to and from that guest is reset: the next guest knows nothing of
// it, and a client that hangs is worse off than one that is told. See Hold for a
// guest that comes back.
//
// Serve closes l and returns when ctx is done or the Network is closed; the error is nil.
func (n *Network) Serve(ctx context.Context, l net.Listener) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(n.ctx, cancel)()
	door := accept.Door{Log: n.config.Log}
	door.Serve(ctx, l, func(conn net.Conn) {
		if !n.spawn(func() { n.serveGuest(newByteStream(conn)) }) {
			_ = conn.Close()
		}
	})
	return nil
}

// ServeDatagrams is Serve for hypervisors of which each sends its frames as datagrams to
// conn, a unix socket that is bound and not connected, from a bound socket of its own. Its
// first datagram is a greeting and nothing else. One that ends does not say so: it is
// missed when the next one greets, or when a frame does not reach it any more.
func (n *Network) ServeDatagrams(ctx context.Context, conn *net.UnixConn) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(n.ctx, cancel)()
	defer context.AfterFunc(ctx, func() { _ = conn.Close() })()
	defer conn.Close()
	frames := newDatagrams(conn)
	for {
		if err := frames.accept(); err != nil && ctx.Err() != nil {
			return nil
		} else if err != nil {
			return fmt.Errorf("waiting for the VM's network card: %w", err)
		}
		ended := make(chan struct{})
		if !n.spawn(func() { defer close(ended); n.serveGuest(frames) }) {
			return nil
		}
		<-ended
	}
}

// serveGuest runs one connection of the hypervisor to its end.
func (n *Network) serveGuest(frames framing) {
	w := newWire(frames)
	held := n.held()
	if old := n.link.attach(w); old != nil {
		n.resetConnections()
	}
	if held {
		n.setKeepAlive(true)
	}
	err := w.run(n.link.deliver)
	if n.link.detach(w) && !n.held() {
		n.resetConnections()
	}
	n.config.Log.Debug("the VM's network card went away", "cause", err)
}

// Connected tells whether a VM is connected.
func (n *Network) Connected() bool { return n.link.connected() }

// Bytes returns how many bytes of Ethernet frames went to the guest and came from it.
func (n *Network) Bytes() (in, out int64) { return n.link.in.Load(), n.link.out.Load() }

// Close ends every connection and listener and waits for the Network's
// goroutines.
func (n *Network) Close() error {
	n.once.Do(func() {
		n.mu.Lock()
		n.closed = true
		n.mu.Unlock()
		n.cancel()
		n.ports.close()
		n.link.close()
		n.endSessions()
		n.stack.Close()
		n.stack.Wait()
	})
	return nil
}

// endSessions ends connections and sessions until the last goroutine is gone;
// one that was just being made may come up after the first round.
func (n *Network) endSessions() {
	done := make(chan struct{})
	go func() {
		n.wg.Wait()
		close(done)
	}()
	for {
		n.udp.closeAll()
		n.pings.close()
		n.resetConnections()
		select {
		case <-done:
			return
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// spawn runs f in a goroutine that Close waits for. It reports false, without
// running f, once the Network is closed.
func (n *Network) spawn(f func()) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.closed {
		return false
	}
	n.wg.Go(f)
	return true
}
