package network

import (
	"net/netip"
	"sync"
	"sync/atomic"
	"time"
)

// A crowd is a bounded set of things that containers hold. A newcomer is always let in:
// when the crowd is full, one of those that hold most has to go. So one container that
// takes all it can get stands in its own way and in nobody else's.
//
// Most containers share one address here, since dockerd translates theirs. Where sources
// hold alike, the destination tells those that are many from those that are few.
type crowd struct {
	limit int

	mu      sync.Mutex
	members map[*member]struct{}
	sources map[netip.Addr]int
	pairs   map[pair]int
}

// A pair is who speaks with whom.
type pair struct{ src, dst netip.Addr }

// A member of a crowd.
type member struct {
	pair  pair
	evict func()
	moved atomic.Int64 // when it was last of use, as a Unix time in nanoseconds
}

func newCrowd(limit int) *crowd {
	return &crowd{limit: limit, members: map[*member]struct{}{}, sources: map[netip.Addr]int{}, pairs: map[pair]int{}}
}

// enter adds a member. evict is called, once and from another goroutine's call, if it has
// to go; leave is to be called either way.
func (c *crowd) enter(who pair, evict func()) *member {
	p := &member{pair: who, evict: evict}
	p.touch()
	c.mu.Lock()
	c.sources[who.src]++
	c.pairs[who]++
	var victim *member
	if len(c.members) >= c.limit {
		victim = c.heaviest()
		c.remove(victim)
	}
	c.members[p] = struct{}{}
	c.mu.Unlock()
	if victim != nil {
		victim.evict()
	}
	return p
}

// heaviest is who has been of no use for longest, among those of the pair that holds
// most, among those of the source that holds most.
func (c *crowd) heaviest() *member {
	var worst *member
	var source, pair int
	for p := range c.members {
		s, n := c.sources[p.pair.src], c.pairs[p.pair]
		if worst == nil || s > source || s == source && (n > pair || n == pair && p.moved.Load() < worst.moved.Load()) {
			worst, source, pair = p, s, n
		}
	}
	return worst
}

func (c *crowd) leave(p *member) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.remove(p)
}

func (c *crowd) remove(p *member) {
	if _, ok := c.members[p]; !ok {
		return
	}
	delete(c.members, p)
	if c.sources[p.pair.src]--; c.sources[p.pair.src] == 0 {
		delete(c.sources, p.pair.src)
	}
	if c.pairs[p.pair]--; c.pairs[p.pair] == 0 {
		delete(c.pairs, p.pair)
	}
}

// touch notes that the member was of use.
func (p *member) touch() { p.moved.Store(time.Now().UnixNano()) }
