package network

import (
	"runtime/debug"
	"runtime/metrics"
	"slices"
	"sync"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
)

const (
	// lookEvery is how often the warden looks while there are connections.
	lookEvery = 5 * time.Second

	// quietLooks is how many looks without a byte make a connection quiet. One that
	// holds nothing gives its buffers back then, one that is stuck is hurried.
	quietLooks = 2

	// deadLooks is how many looks a hurried connection may go unheard while the guest
	// is heard, before it is dead. Together with quietLooks it is below a minute.
	deadLooks = 7

	// maxPause is the longest time between two probes of a window that is closed.
	maxPause = 10 * time.Second

	// manyConns is from how many on connections are hurried even where none is stuck.
	manyConns = 256

	// maxLive is, in bytes, what may live in this process before stuck connections are
	// reset, those that are stuck for longest first. It is the second line: the first
	// is what each connection may hold.
	maxLive = 72 << 20
)

// conns are the TCP connections with the guest, looked after by a warden while there are
// any. The clock is time's, since nothing tells that something does not happen.
type conns struct {
	n *Network

	mu     sync.RWMutex
	all    map[connKey]*guestConn
	peak   int  // since memory was given back last
	frees  int  // how often memory is yet to be given back
	warden bool // is on duty
}

// A connKey is a connection as its packets from the guest name it.
type connKey struct {
	src, dst         [4]byte
	srcPort, dstPort uint16
}

// A look is what the warden saw of a connection.
type look struct {
	moved   int64 // what guestConn.moved was
	quiet   int   // looks for which it has been that
	unheard int   // looks for which the guest said nothing on it, but something elsewhere
	hurried bool
}

func keyOf(ep tcpip.Endpoint) (key connKey, ok bool) {
	local, err1 := ep.GetLocalAddress()
	remote, err2 := ep.GetRemoteAddress()
	if err1 != nil || err2 != nil || local.Addr.Len() != 4 || remote.Addr.Len() != 4 {
		return key, false
	}
	return connKey{remote.Addr.As4(), local.Addr.As4(), remote.Port, local.Port}, true
}

func (c *conns) add(conn *guestConn) {
	key, ok := keyOf(conn.ep)
	if !ok {
		return // it is gone already
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.all == nil {
		c.all = map[connKey]*guestConn{}
	}
	conn.key = key
	c.all[key] = conn
	c.peak = max(c.peak, len(c.all))
	if !c.warden {
		c.warden = c.n.spawn(c.watch)
	}
}

func (c *conns) remove(conn *guestConn) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.all[conn.key] == conn {
		delete(c.all, conn.key)
	}
}

// hear notes what the guest says on a connection in few bytes, and tells whether it is
// to be dropped. It is called before the stack sees the frame, whose IPv4 header has been
// checked.
func (c *conns) hear(ip header.IPv4) (overrun bool) {
	if ip.TransportProtocol() != header.TCPProtocolNumber {
		return false
	}
	if ip.More() || ip.FragmentOffset() != 0 {
		return true // TCP finds the size that fits; pieces of a few bytes only cost
	}
	segment := header.TCP(ip.Payload())
	if len(segment) < header.TCPMinimumSize || len(segment) < int(segment.DataOffset()) {
		return true
	}
	size := len(segment) - int(segment.DataOffset())
	if size >= smallSegment {
		return false
	}
	c.mu.RLock()
	conn := c.all[connKey{ip.SourceAddress().As4(), ip.DestinationAddress().As4(), segment.SourcePort(), segment.DestinationPort()}]
	c.mu.RUnlock()
	if conn == nil {
		return false
	}
	conn.heard.Store(true)
	return size > 0 && conn.overrun()
}

// watch is the warden, until there is nothing to look after.
func (c *conns) watch() {
	ticker := time.NewTicker(lookEvery)
	defer ticker.Stop()
	var heard int64
	for {
		select {
		case <-c.n.ctx.Done():
			return
		case <-ticker.C:
		}
		now := c.n.link.out.Load()
		alive := now != heard
		heard = now
		if c.lookAtAll(alive) {
			c.n.link.askGuest()
		}
		if c.rest() {
			return
		}
	}
}

// rest gives back what many connections have left, and takes the warden off duty when
// there are none. Pools lose what they hold in two collections, so there are as many.
func (c *conns) rest() (off bool) {
	c.mu.Lock()
	left := len(c.all)
	if c.peak >= 64 && left <= c.peak/2 {
		c.peak, c.frees = left, 3
	}
	free := c.frees > 0
	if free {
		c.frees--
	} else if left == 0 {
		c.warden, c.peak, off = false, 0, true
	}
	c.mu.Unlock()
	if free {
		debug.FreeOSMemory()
	}
	return off
}

func (c *conns) list() []*guestConn {
	c.mu.RLock()
	defer c.mu.RUnlock()
	list := make([]*guestConn, 0, len(c.all))
	for _, conn := range c.all {
		list = append(list, conn)
	}
	return list
}

// lookAtAll looks at every connection, and tells whether some have yet to prove that
// they live. alive says that something came from the guest since the last look.
func (c *conns) lookAtAll(alive bool) (hurried bool) {
	list := c.list()
	many := len(list) > manyConns
	var stuck []*guestConn
	for _, conn := range list {
		conn.look(alive, many)
		hurried = hurried || conn.looked.hurried
		if conn.stuck.Load() > 0 {
			stuck = append(stuck, conn)
		}
	}
	if len(stuck) > 0 && live() > maxLive {
		slices.SortFunc(stuck, func(a, b *guestConn) int { return int(a.moved.Load() - b.moved.Load()) })
		stuck = stuck[:(len(stuck)+3)/4]
		for _, conn := range stuck {
			conn.abort()
		}
		c.n.config.Log.Warn("too much waits for peers that do not read: connections were reset", "count", len(stuck))
		debug.FreeOSMemory()
	}
	return hurried
}

func (c *guestConn) look(alive, many bool) {
	l := &c.looked
	heard := c.heard.Swap(false)
	if moved := c.moved.Load(); moved != l.moved {
		*l = look{moved: moved, hurried: l.hurried}
	} else {
		l.quiet++
	}
	stuck := c.stuck.Load() > 0
	if hurry := !c.network.held() && l.quiet >= quietLooks && (stuck || many); hurry != l.hurried {
		l.hurried, l.unheard = hurry, 0
		keepAlive(c.ep, hurry)
	}
	switch {
	case heard || !l.hurried:
		l.unheard = 0
	case alive:
		l.unheard++
	}
	if l.unheard >= deadLooks {
		c.abort()
	} else if l.quiet >= quietLooks && !stuck {
		c.shrink()
	}
}

// live is how many bytes the process holds, as of the last garbage collection.
func live() uint64 {
	samples := []metrics.Sample{{Name: "/gc/heap/live:bytes"}, {Name: "/memory/classes/heap/stacks:bytes"}}
	metrics.Read(samples)
	return samples[0].Value.Uint64() + samples[1].Value.Uint64()
}
