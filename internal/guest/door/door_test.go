package door

import (
	"io"
	"net"
	"runtime"
	"testing"
	"time"

	"github.com/hyve-vm/hyve/internal/accept"
)

// sourceHere is what a connection of this process comes from.
func sourceHere(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	client, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	server, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	return accept.Source(server)
}

// crowd has so many clients come to a door that say nothing.
func crowd(t *testing.T, address string, size int) {
	t.Helper()
	for range size {
		conn, err := net.Dial("tcp", address)
		if err != nil {
			continue // hung up on at once
		}
		t.Cleanup(func() { conn.Close() })
	}
}

// Clients that do not say who they are take a bounded part of PID 1, give it back soon, and
// keep nobody out who comes by hyve's own sockets.
func TestDoorSurvivesCrowds(t *testing.T) {
	const size, patience = 2 * startupsShare, 2 * time.Second
	here := sourceHere(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	d, address := New(patience, t.Logf), l.Addr().String()
	go d.Serve(l, func(conn net.Conn) func() {
		if _, err := io.ReadFull(conn, make([]byte, 5)); err != nil {
			return nil
		}
		return func() { io.WriteString(conn, "welcome") }
	})
	enter := func() error {
		conn, err := net.Dial("tcp", address)
		if err != nil {
			return err
		}
		defer conn.Close()
		io.WriteString(conn, "hello")
		_, err = io.ReadFull(conn, make([]byte, len("welcome")))
		return err
	}
	before, began := runtime.NumGoroutine(), time.Now()
	crowd(t, address, size)
	if held := d.others.Held(); held > startupsShare {
		t.Errorf("%d of %d clients are at the door", held, size)
	}
	if grown := runtime.NumGoroutine() - before; grown > 3*startupsShare {
		t.Errorf("%d goroutines more", grown)
	}
	if time.Since(began) < patience/2 {
		if enter() == nil {
			t.Error("the crowd leaves room in its own share, so this test shows nothing")
		}
		d.SetHost(here)
		if err := enter(); err != nil {
			t.Errorf("the crowd keeps hyve's own out: %v", err)
		}
		d.SetHost("")
	} else {
		t.Log("this machine is too slow to try who is let in meanwhile")
	}
	for deadline := time.Now().Add(20 * time.Second); d.others.Held() > 0 || runtime.NumGoroutine() > before+10; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%d clients are still at the door, and there are %d goroutines", d.others.Held(), runtime.NumGoroutine())
		}
	}
	if err := enter(); err != nil {
		t.Errorf("after the crowd: %v", err)
	}
}
