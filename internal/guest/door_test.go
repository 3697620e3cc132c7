//go:build linux

package guest

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
func TestDoorsSurviveCrowds(t *testing.T) {
	const size, patience = 2 * startupsShare, 2 * time.Second
	p := newTestPKI(t, "first")
	s, _ := startSSH(t, p)
	f, _ := startFront(t, p, func(conn *net.UnixConn) {
		defer conn.Close()
		io.WriteString(conn, "HTTP/1.0 200 OK\r\n\r\n")
	})
	here := sourceHere(t)
	open := func(greet func(net.Conn) func()) (*door, string) {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { l.Close() })
		d := newDoor(patience, t.Logf)
		go d.serve(l, greet)
		return d, l.Addr().String()
	}
	sshDoor, sshAddress := open(s.handle)
	frontDoor, frontAddress := open(f.handle)
	for name, test := range map[string]struct {
		door    *door
		address string
		enter   func() error
	}{
		"ssh": {sshDoor, sshAddress, func() error {
			client, err := dialSSH(sshAddress, "docker", p, p.user)
			if err == nil {
				client.Close()
			}
			return err
		}},
		"tls": {frontDoor, frontAddress, func() error {
			conn, err := dialFront(frontAddress, p, p.client)
			if err == nil {
				_, err = conn.Read(make([]byte, 1))
				conn.Close()
			}
			return err
		}},
	} {
		before := runtime.NumGoroutine()
		began := time.Now()
		crowd(t, test.address, size)
		if held := test.door.others.Held(); held > startupsShare {
			t.Errorf("%s: %d of %d clients are at the door", name, held, size)
		}
		if grown := runtime.NumGoroutine() - before; grown > 3*startupsShare {
			t.Errorf("%s: %d goroutines more", name, grown)
		}
		if time.Since(began) < patience/2 {
			if test.enter() == nil {
				t.Errorf("%s: the crowd leaves room in its own share, so this test shows nothing", name)
			}
			test.door.host.set(here)
			if err := test.enter(); err != nil {
				t.Errorf("%s: the crowd keeps hyve's own out: %v", name, err)
			}
			test.door.host.set("")
		} else {
			t.Logf("%s: this machine is too slow to try who is let in meanwhile", name)
		}
		eventually(t, func() bool { return test.door.others.Held() == 0 && runtime.NumGoroutine() < before+10 })
		if err := test.enter(); err != nil {
			t.Errorf("%s: after the crowd: %v", name, err)
		}
	}
}
