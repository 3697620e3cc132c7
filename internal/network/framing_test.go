package network

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand"
	"net"
	"path/filepath"
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
)

// datagramCable has a frame in each datagram.
type datagramCable struct{ *net.UnixConn }

func (c datagramCable) writeFrame(frame []byte) error {
	_, err := c.Write(frame)
	return err
}

func (c datagramCable) readFrame() ([]byte, error) {
	frame := make([]byte, 1<<17)
	n, err := c.Read(frame)
	return frame[:n], err
}

// newDatagramNetwork is newNetwork for guests that plug has connected.
func newDatagramNetwork(t *testing.T) (n *Network, plug func() *guest) {
	t.Helper()
	n, err := New(Config{})
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	at := &net.UnixAddr{Name: filepath.Join(dir, "net.sock"), Net: "unixgram"}
	conn, err := net.ListenUnixgram("unixgram", at)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- n.ServeDatagrams(context.Background(), conn) }()
	t.Cleanup(func() {
		_ = n.Close()
		if err := <-done; err != nil {
			t.Errorf("ServeDatagrams: %v", err)
		}
	})
	plugged := 0
	return n, func() *guest {
		plugged++
		own := &net.UnixAddr{Name: filepath.Join(dir, fmt.Sprintf("card-%d.sock", plugged)), Net: "unixgram"}
		c, err := net.DialUnix("unixgram", own, at)
		if err == nil {
			buffered(c) // at least a frame
			_, err = c.Write([]byte("VFKT"))
		}
		if err != nil {
			t.Fatal(err)
		}
		return newGuestOn(t, datagramCable{c}, n.MTU())
	}
}

// eachFraming runs a test on each kind of socket.
func eachFraming(t *testing.T, test func(t *testing.T, n *Network, plug func() *guest)) {
	t.Run("stream", func(t *testing.T) {
		n, path := newNetwork(t, Config{})
		test(t, n, func() *guest { return newGuest(t, path, n.MTU()) })
	})
	t.Run("datagrams", func(t *testing.T) {
		n, plug := newDatagramNetwork(t)
		test(t, n, plug)
	})
}

// TestFramings carries as much as queues hold several times, both ways at once.
func TestFramings(t *testing.T) {
	eachFraming(t, func(t *testing.T, n *Network, plug func() *guest) {
		g := plug()
		g.listen(80, echo)
		eventually(t, "connected", n.Connected)
		c, err := n.DialGuest(t.Context(), 80)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		_ = c.SetDeadline(time.Now().Add(time.Minute))
		want := make([]byte, 5*maxQueued)
		rand.New(rand.NewSource(1)).Read(want)
		go c.Write(want)
		got := make([]byte, len(want))
		if read, err := io.ReadFull(c, got); err != nil {
			t.Fatalf("%d of %d bytes come back: %v", read, len(want), err)
		}
		if !bytes.Equal(got, want) {
			t.Error("other bytes come back")
		}
	})
}

// TestNewGuest connects a second hypervisor while the first is still there.
func TestNewGuest(t *testing.T) {
	eachFraming(t, func(t *testing.T, n *Network, plug func() *guest) {
		old := plug()
		old.listen(80, echo)
		eventually(t, "connected", n.Connected)
		c, err := n.DialGuest(t.Context(), 80)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()

		fresh := plug()
		fresh.listen(80, func(c *gonet.TCPConn) { _, _ = c.Write([]byte("fresh")); _ = c.Close() })
		_ = c.SetReadDeadline(time.Now().Add(5 * time.Second))
		if _, err := c.Read(make([]byte, 1)); err == nil || errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("a connection of the replaced guest: %v, want a reset", err)
		}
		eventually(t, "connected", n.Connected)
		c, err = n.DialGuest(t.Context(), 80)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if b, err := io.ReadAll(c); string(b) != "fresh" {
			t.Errorf("got %q, %v from the new guest", b, err)
		}
		_ = fresh.cable.Close()
		eventually(t, "disconnected", func() bool {
			n.link.askGuest() // a frame that does not reach it
			return !n.Connected()
		})
	})
}

// TestDatagramsOfAnybody: what is no frame, and whom nobody can answer, changes nothing.
func TestDatagramsOfAnybody(t *testing.T) {
	n, plug := newDatagramNetwork(t)
	g := plug()
	g.listen(80, echo)
	eventually(t, "connected", n.Connected)
	card := g.cable.(datagramCable)
	nameless, err := net.DialUnix("unixgram", nil, card.RemoteAddr().(*net.UnixAddr))
	if err != nil {
		t.Fatal(err)
	}
	defer nameless.Close()
	for _, junk := range [][]byte{{}, {1}, make([]byte, 13), make([]byte, maxFrame), make([]byte, maxFrame+1), make([]byte, 2*maxFrame)} {
		for _, c := range []net.Conn{card, nameless} {
			if _, err := c.Write(junk); err != nil {
				t.Fatalf("%d bytes: %v", len(junk), err)
			}
		}
	}
	c, err := n.DialGuest(t.Context(), 80)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.Write([]byte("!")); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(c, make([]byte, 1)); err != nil {
		t.Error(err)
	}
}
