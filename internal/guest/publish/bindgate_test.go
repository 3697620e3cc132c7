//go:build linux

package publish

import (
	"io"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/hyve-vm/hyve/internal/guest/outbox"
	"github.com/hyve-vm/hyve/internal/guest/outbox/outboxtest"
	"github.com/hyve-vm/hyve/internal/guestapi"
)

// behindGate runs TestInGroup's process behind a gate, and returns its first line.
func behindGate(t *testing.T, g *BindGate, what string) string {
	t.Helper()
	in, out, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	null, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	p, err := g.Start(testReaper, []string{os.Args[0], "-test.run=^TestInGroup$"}, &os.ProcAttr{
		Env:   append(os.Environ(), "GODEBUG=multipathtcp=0", "HYVE_IN_GROUP="+what), // plain TCP, as dockerd's
		Files: []*os.File{null, out, out}})
	out.Close()
	if err != nil {
		t.Fatal(err)
	}
	in.SetReadDeadline(time.Now().Add(20 * time.Second))
	text, err := io.ReadAll(in)
	if err != nil {
		t.Fatalf("%s: %v after %q", what, err, text)
	}
	p.Wait()
	line, _, _ := strings.Cut(string(text), "\n")
	return line
}

// newTestGate is a gate at which those ports are taken, and what it was asked.
func newTestGate(t *testing.T, taken ...uint16) (*BindGate, chan publication) {
	asked := make(chan publication, 100)
	unsupported := make(chan struct{}, 1)
	g := &BindGate{logf: func(format string, args ...any) { unsupported <- struct{}{} }, taken: func(want publication) bool {
		asked <- want
		for _, port := range taken {
			if want.port == port {
				return true
			}
		}
		return false
	}}
	behindGate(t, g, "address 127.0.0.1:0")
	if len(unsupported) > 0 {
		t.Skip("this kernel, or who runs this, holds no calls")
	}
	return g, asked
}

// A program binds what is not taken, and is told the same of what is as by a kernel.
func TestBindGate(t *testing.T) {
	g, asked := newTestGate(t, 45101, 45102)
	for _, test := range []struct {
		what, want string
		asked      publication
	}{
		{"address 127.0.0.1:45100", "127.0.0.1:45100", publication{"tcp", "127.0.0.1", 45100, ""}},
		{"address [::1]:45100", "[::1]:45100", publication{"tcp", "::1", 45100, ""}},
		{"address 0.0.0.0:45100", "0.0.0.0:45100", publication{"tcp", "0.0.0.0", 45100, ""}},
		{"address [::]:45100", "[::]:45100", publication{"tcp", "::", 45100, ""}},
		{"bind 127.0.0.1:45100", "<nil>", publication{"udp", "127.0.0.1", 45100, ""}},
		{"address 127.0.0.1:45101", "listen tcp4 127.0.0.1:45101: bind: address already in use", publication{"tcp", "127.0.0.1", 45101, ""}},
		{"bind 127.0.0.1:45102", "listen udp 127.0.0.1:45102: bind: address already in use", publication{"udp", "127.0.0.1", 45102, ""}},
	} {
		if got := behindGate(t, g, test.what); got != test.want {
			t.Errorf("%s: %q, want %q", test.what, got, test.want)
		}
		if len(asked) != 1 {
			t.Fatalf("%s: asked %d times", test.what, len(asked))
		}
		if got := <-asked; got != test.asked {
			t.Errorf("%s: asked of %+v", test.what, got)
		}
	}
	for _, what := range []string{"address 127.0.0.1:0", "child address 127.0.0.1:45101"} {
		if got := behindGate(t, g, what); !strings.HasPrefix(got, "127.0.0.1:") || len(asked) > 0 {
			t.Errorf("%s: %q, and it was asked %d times", what, got, len(asked))
		}
	}
}

// While one port is asked for, others are.
func TestBindGateAtOnce(t *testing.T) {
	g, _ := newTestGate(t)
	both := make(chan struct{}, 2)
	g.taken = func(publication) bool {
		both <- struct{}{}
		for range 500 {
			if len(both) == 2 {
				return false
			}
			time.Sleep(10 * time.Millisecond)
		}
		return true
	}
	if got := behindGate(t, g, "two 127.0.0.1:45103 127.0.0.1:45104"); got != "<nil> <nil>" {
		t.Error(got)
	}
}

// The thread that started a program has ended, and its filter with it.
func TestBindGateLeavesNothing(t *testing.T) {
	g, asked := newTestGate(t, 45105)
	behindGate(t, g, "address 127.0.0.1:45100")
	<-asked
	for range 100 {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM, 0)
		if err != nil {
			t.Fatal(err)
		}
		if err := unix.Bind(fd, &unix.SockaddrInet4{Port: 45105, Addr: [4]byte{127, 0, 0, 1}}); err != nil || len(asked) > 0 {
			t.Fatalf("this process binds: %v, and it was asked %d times", err, len(asked))
		}
		unix.Close(fd)
	}
}

func FuzzParseSockaddr(f *testing.F) {
	f.Add([]byte("\x02\x00\x00\x50\x7f\x00\x00\x01\x00\x00\x00\x00\x00\x00\x00\x00"))
	f.Fuzz(func(t *testing.T, b []byte) {
		ip, _, ok := parseSockaddr(b)
		if _, err := guestapi.ParseAddress(ip); ok && (err != nil || ip == "") {
			t.Errorf("parseSockaddr(%q): %q, %v", b, ip, err)
		}
	})
}

// reserving asks for a port as dockerd's bind does, and answers as a host.
func reserving(t *testing.T, p *Ports, out *outbox.Outbox, want publication, ack guestapi.PortAck) (opened guestapi.PortOpened, taken bool) {
	t.Helper()
	done := make(chan bool, 1)
	go func() { done <- p.taken(want) }()
	opened = openedPort(t, out)
	ack.ID = opened.ID
	p.Acknowledge(ack)
	return opened, <-done
}

func closedPort(t *testing.T, out *outbox.Outbox) uint64 {
	t.Helper()
	return outboxtest.Next(t, out, func(e guestapi.Event) bool { return e.PortClosed != nil }).PortClosed.ID
}

// A port of docker's choice is asked for when it is bound, and is the proxy's then.
func TestReservedPort(t *testing.T) {
	out := outboxtest.New()
	p := testPorts(out)
	p.origin = func(uint16) origin { return anyPort }
	v4, taken := reserving(t, p, out, publication{"tcp", "0.0.0.0", 40000, ""}, guestapi.PortAck{})
	if taken || !v4.Firm || !v4.Chosen {
		t.Errorf("taken: %t, asked as %+v", taken, v4)
	}
	v6, _ := reserving(t, p, out, publication{"tcp", "::", 40000, ""}, guestapi.PortAck{})
	if v6.GuestPort != 0 {
		t.Errorf("IPv6 is asked for as %+v", v6)
	}
	p.follow([]publication{{"tcp", "0.0.0.0", 40000, ""}}, nil) // dockerd's own socket
	var proxies []io.Closer
	for _, test := range []struct {
		want  publication
		grant string
	}{{publication{"tcp", "0.0.0.0", 40000, "a:80"}, "ok 0.0.0.0 40000\n"}, {publication{"tcp", "::", 40000, "a:80"}, "ok :: 40000\n"}} {
		proxy, here := net.Pipe()
		go p.publish(test.want, here)
		answer := make([]byte, 100)
		if n, err := proxy.Read(answer); err != nil || string(answer[:n]) != test.grant {
			t.Errorf("a proxy at %s reads %q, %v", test.want.hostIP, answer[:n], err)
		}
		proxies = append(proxies, proxy)
	}
	p.unreserve(func(*openPort) bool { return true }) // it is no more
	if len(p.open) != 2 || p.open[v4.ID] == nil || p.open[v6.ID] == nil {
		t.Errorf("the proxies' ports are others than those that were reserved: %v", p.open)
	}
	for i, id := range []uint64{v4.ID, v6.ID} {
		proxies[i].Close()
		if got := closedPort(t, out); got != id {
			t.Errorf("port %d was closed, want %d", got, id)
		}
	}
}

// What the host has given away is not bound, in neither family; what no proxy claims is
// given back.
func TestReservedPortEnds(t *testing.T) {
	out := outboxtest.New()
	p := testPorts(out)
	p.origin = func(uint16) origin { return ranged }
	v4, _ := reserving(t, p, out, publication{"udp", "0.0.0.0", 5000, ""}, guestapi.PortAck{})
	other, _ := reserving(t, p, out, publication{"udp", "0.0.0.0", 5001, ""}, guestapi.PortAck{})
	if v4.Chosen {
		t.Error("a port of a range is asked for as if any would do")
	}
	v6, taken := reserving(t, p, out, publication{"udp", "::", 5000, ""}, guestapi.PortAck{Refused: "bind: address already in use", Taken: true})
	if !taken {
		t.Error("it is not taken")
	}
	for _, want := range []uint64{v6.ID, v4.ID} {
		if got := closedPort(t, out); got != want {
			t.Errorf("port %d was closed, want %d", got, want)
		}
	}
	// Another reason is the proxy's to tell.
	no, taken := reserving(t, p, out, publication{"udp", "192.0.2.1", 5000, ""}, guestapi.PortAck{Refused: "not this machine's"})
	if got := closedPort(t, out); taken || got != no.ID {
		t.Errorf("taken: %t, port %d was closed, want %d", taken, got, no.ID)
	}
	p.unreserve(func(*openPort) bool { return true })
	if got := closedPort(t, out); got != other.ID || len(p.open) > 0 {
		t.Errorf("port %d was closed, want %d; %d are open", got, other.ID, len(p.open))
	}
	// And of what the user has named, or nobody, the host is not asked.
	for _, o := range []origin{named, unknown} {
		p.origin = func(uint16) origin { return o }
		if p.taken(publication{"udp", "0.0.0.0", 5000, ""}) || len(p.open) > 0 {
			t.Errorf("origin %d: asked", o)
		}
	}
}
