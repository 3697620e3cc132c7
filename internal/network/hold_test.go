package network

import (
	"fmt"
	"io"
	"net"
	"path/filepath"
	"testing"
	"time"
)

// A guest that goes away for a while is woken by what comes for it, and its
// connections outlive its absence.
func TestHold(t *testing.T) {
	n, path := newNetwork(t, Config{})
	// The guest keeps its end of a cable of which the other end is pulled.
	cable := filepath.Join(t.TempDir(), "cable.sock")
	l, err := net.Listen("unix", cable)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	guests := make(chan net.Conn, 1)
	go func() {
		c, err := l.Accept()
		if err == nil {
			guests <- c
		}
	}()
	g := newGuest(t, cable, n.MTU())
	end := <-guests
	plug := func() net.Conn {
		t.Helper()
		c, err := net.Dial("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		go io.Copy(end, c)
		go io.Copy(c, end)
		eventually(t, "connected", n.Connected)
		return c
	}
	plugged := plug()
	defer func() { plugged.Close() }()
	port := freeOn(t)
	g.listen(port, echo)
	publish(t, n, "tcp", "127.0.0.1", port)
	dial := func() net.Conn {
		t.Helper()
		c, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", port))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		_ = c.SetDeadline(time.Now().Add(20 * time.Second))
		return c
	}
	old := dial()
	if got := ask1(t, old, "one"); got != "one" {
		t.Fatalf("got %q", got)
	}
	before := n.LastTraffic()

	for what, do := range map[string]func() net.Conn{
		"an old connection": func() net.Conn { return old },
		"a new connection":  dial,
	} {
		woken := make(chan struct{}, 10)
		n.Hold(func() { woken <- struct{}{} })
		plugged.Close()
		eventually(t, "disconnected", func() bool { return !n.Connected() })
		select {
		case <-woken:
			t.Fatal("woken by nothing")
		case <-time.After(50 * time.Millisecond):
		}
		c := do()
		if _, err := io.WriteString(c, what); err != nil {
			t.Fatal(err)
		}
		select {
		case <-woken:
		case <-time.After(5 * time.Second):
			t.Fatalf("%s does not wake the guest", what)
		}
		// The next write of the guest's dead cable ends its copier.
		plugged = plug()
		answer := make([]byte, len(what))
		if _, err := io.ReadFull(c, answer); string(answer) != what {
			t.Errorf("%s says %q, %v", what, answer, err)
		}
		if len(woken) > 0 {
			t.Errorf("%s wakes the guest %d times", what, 1+len(woken))
		}
	}
	if !n.LastTraffic().After(before) {
		t.Error("the traffic was not noticed")
	}

	// A hold that comes to nothing leaves everything as it was.
	n.Hold(func() {})
	go func() { time.Sleep(50 * time.Millisecond); n.Release() }()
	if got := ask1(t, old, "last"); got != "last" {
		t.Errorf("after a release: %q", got)
	}
	// Without one, a guest that goes takes its connections with it.
	plugged.Close()
	if _, err := io.ReadAll(old); err == nil {
		t.Error("the connection outlives its guest")
	}
}
