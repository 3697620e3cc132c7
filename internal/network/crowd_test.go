package network

import (
	"net/netip"
	"testing"
	"time"
)

func TestCrowdSendsAwayWhoHoldsMost(t *testing.T) {
	addr := func(s string) netip.Addr { return netip.MustParseAddr(s) }
	one, two := addr("192.168.127.2"), addr("192.168.127.3")
	web, hole := addr("10.0.0.1"), addr("10.0.0.2")
	c := newCrowd(4)
	var gone []string
	enter := func(name string, src, dst netip.Addr) *member {
		p := c.enter(pair{src, dst}, func() { gone = append(gone, name) })
		time.Sleep(time.Millisecond)
		return p
	}
	enter("few", one, web)
	first := enter("many 1", one, hole)
	enter("many 2", one, hole)
	other := enter("other source", two, hole)
	if len(gone) != 0 {
		t.Fatalf("gone with room: %v", gone)
	}
	first.touch()
	enter("other few", two, web) // the source that holds most, its fullest pair, the longest idle
	enter("many 3", one, hole)
	if len(gone) != 2 || gone[0] != "many 2" || gone[1] != "many 1" && gone[1] != "few" {
		t.Errorf("gone: %v", gone)
	}
	c.leave(other)
	enter("with room", two, hole)
	if len(gone) != 2 {
		t.Errorf("gone with room: %v", gone)
	}
}
