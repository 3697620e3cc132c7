package network

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"testing"
	"time"
)

// tcpEcho listens on an address of the host and sends back what it gets.
func tcpEcho(t *testing.T, ip string) uint16 {
	t.Helper()
	l, err := net.Listen("tcp4", net.JoinHostPort(ip, "0"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				b := make([]byte, 16)
				for {
					n, err := c.Read(b)
					if err != nil {
						return
					}
					c.Write(b[:n])
				}
			}()
		}
	}()
	return uint16(l.Addr().(*net.TCPAddr).Port)
}

// TestHostAccess dials real servers at every address of the host that a container can name.
func TestHostAccess(t *testing.T) {
	n, g := newPair(t, Config{MachineIP: netip.MustParseAddr("127.18.77.1")})
	open, shut := tcpEcho(t, "0.0.0.0"), tcpEcho(t, "0.0.0.0")
	ips := []string{HostIP, AliasIP}
	if own := hostAddressBeyondLoopback(); own.IsValid() {
		ips = append(ips, own.String())
	}
	reaches := func(ip string, port uint16) bool {
		c, err := g.dial(fmt.Sprintf("%s:%d", ip, port))
		if errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%s:%d: not refused but left without an answer", ip, port)
		}
		if err != nil {
			return false
		}
		defer c.Close()
		return ask1(t, c, "x") == "x"
	}
	for _, c := range []struct {
		access     HostAccess
		open, shut bool
	}{
		{HostAccess{}, true, true},
		{HostAccess{Restricted: true}, false, false},
		{HostAccess{Restricted: true, Ports: []uint16{open}}, true, false},
		{HostAccess{}, true, true},
	} {
		n.SetHostAccess(c.access)
		for _, ip := range ips {
			if reaches(ip, open) != c.open || reaches(ip, shut) != c.shut {
				t.Errorf("%s, %+v: not as it should be", ip, c.access)
			}
		}
	}
}

func TestHostAccessEndsWhatMayNoLongerBe(t *testing.T) {
	n, g := newPair(t, Config{})
	port := tcpEcho(t, "127.0.0.1")
	c, err := g.dial(fmt.Sprintf("%s:%d", HostIP, port))
	if err != nil {
		t.Fatal(err)
	}
	if ask1(t, c, "x") != "x" {
		t.Fatal("no echo")
	}
	u, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer u.Close()
	d := g.dialUDP(fmt.Sprintf("%s:%d", HostIP, u.LocalAddr().(*net.UDPAddr).Port))
	receives := func() bool {
		d.Write([]byte("x"))
		u.SetReadDeadline(time.Now().Add(300 * time.Millisecond))
		_, _, err := u.ReadFrom(make([]byte, 1))
		return err == nil
	}
	eventually(t, "received", receives)
	n.SetHostAccess(HostAccess{Restricted: true})
	c.SetReadDeadline(time.Now().Add(5 * time.Second))
	if _, err := c.Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("the connection is still there: %v", err)
	}
	if receives() {
		t.Error("datagrams still pass")
	}
}

func TestMetadataIsOutOfReach(t *testing.T) {
	_, g := newPair(t, Config{})
	for _, a := range slices.Concat(metadata, []netip.Addr{netip.MustParseAddr("169.254.169.254"), netip.MustParseAddr("169.254.170.2")}) {
		start := time.Now()
		if c, err := g.dial(netip.AddrPortFrom(a, 80).String()); err == nil {
			c.Close()
			t.Errorf("%s is reached", a)
		} else if time.Since(start) > 2*time.Second {
			t.Errorf("%s: not refused but left without an answer: %v", a, err)
		}
	}
}

// A broadcast address of the host's networks is no way around: the host itself hears it.
func TestBroadcastIsOutOfReach(t *testing.T) {
	cards, err := net.InterfaceAddrs()
	if err != nil {
		t.Fatal(err)
	}
	_, g := newPair(t, Config{})
	u, err := net.ListenPacket("udp4", "0.0.0.0:0")
	if err != nil {
		t.Fatal(err)
	}
	defer u.Close()
	tried := 0
	for _, card := range cards {
		p, ok := card.(*net.IPNet)
		if ones, _ := p.Mask.Size(); !ok || p.IP.To4() == nil || p.IP.IsLoopback() || ones > 30 {
			continue
		}
		tried++
		all := slices.Clone(p.IP.To4())
		for i := range all {
			all[i] |= ^p.Mask[i]
		}
		d := g.dialUDP(fmt.Sprintf("%s:%d", all, u.LocalAddr().(*net.UDPAddr).Port))
		for range 3 {
			d.Write([]byte("x"))
			u.SetReadDeadline(time.Now().Add(200 * time.Millisecond))
			if _, from, err := u.ReadFrom(make([]byte, 1)); err == nil {
				t.Fatalf("%s leads to the host, from %s", all, from)
			}
		}
	}
	if tried == 0 {
		t.Skip("this host has no network")
	}
}
