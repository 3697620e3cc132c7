//go:build linux

package publish

import (
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/hyve-vm/hyve/internal/guest/process"
	"github.com/hyve-vm/hyve/internal/guestapi"
)

// testReaper is the test binary's only one: two would take each other's children.
var testReaper = process.New()

// cgroupRoot is where control groups are.
const cgroupRoot = "/sys/fs/cgroup"

// testGroup is a new control group; who may not make one, or may not give programs to the
// kernel, cannot test that.
func testGroup(t *testing.T) string {
	t.Helper()
	for _, root := range []string{cgroupRoot + "/unified", cgroupRoot} {
		if _, err := os.Stat(root + "/cgroup.procs"); err != nil {
			continue
		}
		dir, err := os.MkdirTemp(root, "hyve-test-")
		if err != nil {
			t.Skip(err)
		}
		t.Cleanup(func() { os.Remove(dir) })
		return dir
	}
	t.Skip("no control groups of version 2")
	return ""
}

// inGroup starts this test again as a process in a control group, which does what the
// variable says and ends with its input.
func inGroup(t *testing.T, group, what string) (stop func() string) {
	t.Helper()
	dir, err := os.Open(group)
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	cmd := exec.Command(os.Args[0], "-test.run=^TestInGroup$")
	cmd.Env = append(os.Environ(), "HYVE_IN_GROUP="+what)
	cmd.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: int(dir.Fd())}
	var out strings.Builder
	cmd.Stdout = &out
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Skip(err)
	}
	return func() string {
		in.Close()
		cmd.Wait()
		text, _, _ := strings.Cut(out.String(), "\n")
		return text
	}
}

// TestInGroup is that process.
func TestInGroup(t *testing.T) {
	verb, address, _ := strings.Cut(os.Getenv("HYVE_IN_GROUP"), " ")
	wait := func() { io.Copy(io.Discard, os.Stdin) }
	switch verb {
	case "listen":
		_, err := net.Listen("tcp", address)
		fmt.Println(err)
		wait()
	case "address":
		network := "tcp4" // Go listens on both otherwise
		if strings.HasPrefix(address, "[") {
			network = "tcp6"
		}
		if l, err := net.Listen(network, address); err != nil {
			fmt.Println(err)
		} else {
			fmt.Println(l.Addr())
		}
	case "child":
		cmd := exec.Command(os.Args[0], "-test.run=^TestInGroup$")
		cmd.Env = append(os.Environ(), "HYVE_IN_GROUP="+address)
		out, _ := cmd.Output()
		os.Stdout.Write(out)
	case "two":
		first, second, _ := strings.Cut(address, " ")
		result := make(chan error)
		go func() {
			_, err := net.Listen("tcp4", first)
			result <- err
		}()
		_, err := net.Listen("tcp4", second)
		fmt.Println(<-result, err)
	case "bind":
		_, err := net.ListenPacket("udp", address)
		fmt.Println(err)
		wait()
	case "apart": // in a network name space of its own
		runtime.LockOSThread()
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			fmt.Println(err)
			return
		}
		_, err := net.ListenPacket("udp4", address)
		fmt.Println(err)
		wait()
	case "tunnel": // whose socket is the kernel's own, as WireGuard's is
		add := exec.Command("sh", "-c", "ip link add hyve-test type vxlan id 77 dstport "+address+" dev lo && ip link set hyve-test up")
		err := add.Run()
		fmt.Println(err)
		wait()
		exec.Command("ip", "link", "delete", "hyve-test").Run()
	case "again": // on the same socket, when the first address cannot be had
		fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_DGRAM, 0)
		for _, one := range strings.Fields(address) {
			to, _ := net.ResolveUDPAddr("udp4", one)
			if err = syscall.Bind(fd, &syscall.SockaddrInet4{Port: to.Port, Addr: [4]byte(to.IP.To4())}); err == nil {
				break
			}
		}
		fmt.Println(err)
		wait()
	case "dial":
		network, address, _ := strings.Cut(address, " ")
		conn, err := net.Dial(network, address)
		if err != nil {
			fmt.Println(err)
			return
		}
		fmt.Fprint(conn, "x")
		b := make([]byte, 100)
		n, err := conn.Read(b)
		fmt.Println(string(b[:n]), conn.RemoteAddr(), err)
	case "mapped": // as programs dial that know IPv6 only
		to, _ := net.ResolveTCPAddr("tcp4", address)
		fd, err := syscall.Socket(syscall.AF_INET6, syscall.SOCK_STREAM, 0)
		if err != nil {
			fmt.Println(err)
			return
		}
		err = syscall.Connect(fd, &syscall.SockaddrInet6{Port: to.Port, Addr: [16]byte(to.IP.To16())})
		b := make([]byte, 100)
		n, _ := syscall.Read(fd, b)
		fmt.Println(string(b[:max(n, 0)]), err)
	case "send":
		conn, err := net.ListenPacket("udp4", "127.0.0.1:0")
		if err != nil {
			fmt.Println(err)
			return
		}
		to, _ := net.ResolveUDPAddr("udp4", address)
		_, err = conn.WriteTo([]byte("x"), to)
		conn.SetDeadline(time.Now().Add(5 * time.Second))
		b := make([]byte, 100)
		n, from, err2 := conn.ReadFrom(b)
		fmt.Println(string(b[:n]), from, err, err2)
	}
}

// The bell rings when a socket begins to listen, and when it ceases.
func TestBell(t *testing.T) {
	group := testGroup(t)
	b, err := newBell(group)
	if err != nil {
		t.Skip(err)
	}
	rings := make(chan bool, 1000)
	go func() {
		for b.wait() == nil {
			rings <- true
		}
	}()
	rung := func(what string) {
		t.Helper()
		select {
		case <-rings:
		case <-time.After(5 * time.Second):
			t.Errorf("no bell when %s", what)
		}
		time.Sleep(100 * time.Millisecond) // a program may open several
		for len(rings) > 0 {
			<-rings
		}
	}
	stop := inGroup(t, group, "listen 127.0.0.1:0")
	rung("TCP listens")
	stop()
	rung("TCP has ceased to listen")
	stop = inGroup(t, group, "bind 127.0.0.1:0")
	rung("UDP is bound")
	stop()
	stop = inGroup(t, group, "listen [::1]:0")
	rung("TCP listens on IPv6")
	stop()
}

// A program that is kept off the doors binds them although somebody has them, and nothing
// else is another than it asks for.
func TestKeepOffDoors(t *testing.T) {
	group := testGroup(t)
	if err := KeepOffDoors(group); err != nil {
		t.Fatal(err)
	}
	if l, err := net.Listen("tcp", ":2376"); err == nil {
		defer l.Close()
	}
	for _, test := range []struct{ asked, from string }{
		{"0.0.0.0:2376", "127.0.0.1:"}, {"127.0.0.1:22", "127.0.0.1:"}, {"[::]:2376", "[::1]:"}, {"[::]:22", "[::1]:"}, {"[::1]:2376", "[::1]:"},
	} {
		got := inGroup(t, group, "address "+test.asked)()
		_, port, _ := net.SplitHostPort(got)
		if !strings.HasPrefix(got, test.from) || port == "2376" || port == "22" {
			t.Errorf("bound to %s, a program has %q, want a free port of %s", test.asked, got, test.from)
		}
	}
	for _, asked := range []string{"127.0.0.1:23761", "[::1]:23761"} {
		if got := inGroup(t, group, "address "+asked)(); got != asked {
			t.Errorf("bound to %s, a program has %q", asked, got)
		}
	}
	if got := inGroup(t, group, "bind 127.0.0.1:2376")(); got != "<nil>" {
		t.Errorf("UDP: %s", got)
	}
}

// The machine's address leads to its alias, by whatever call.
func TestHostAddress(t *testing.T) {
	const said, meant = "127.18.77.1", "127.0.0.1"
	group := testGroup(t)
	var h HostAddress
	if err := h.Attach(group); err != nil {
		t.Skip(err)
	}
	if err := h.Set(guestapi.Identity{HostAddress: said, HostAlias: meant}); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", meant+":0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			io.WriteString(conn, "tcp")
			conn.Close()
		}
	}()
	u, err := net.ListenPacket("udp", meant+":0")
	if err != nil {
		t.Fatal(err)
	}
	defer u.Close()
	go func() {
		b := make([]byte, 100)
		for {
			_, from, err := u.ReadFrom(b)
			if err != nil {
				return
			}
			u.WriteTo([]byte("udp"), from)
		}
	}()
	_, tcp, _ := net.SplitHostPort(l.Addr().String())
	_, udp, _ := net.SplitHostPort(u.LocalAddr().String())
	for what, want := range map[string]string{
		"dial tcp4 " + said + ":" + tcp:  "tcp " + said + ":" + tcp,
		"mapped " + said + ":" + tcp:     "tcp <nil>",
		"dial udp4 " + said + ":" + udp:  "udp " + said + ":" + udp,
		"send " + said + ":" + udp:       "udp " + said + ":" + udp,
		"dial tcp4 " + meant + ":" + tcp: "tcp 127.",
	} {
		got := inGroup(t, group, what)()
		if !strings.HasPrefix(got, want) {
			t.Errorf("%s: %s, want %s", what, got, want)
		}
	}
	h.Set(guestapi.Identity{})
	if got := inGroup(t, group, "dial tcp4 "+said+":"+tcp)(); strings.HasPrefix(got, "tcp") {
		t.Errorf("without an address of its own: %s", got)
	}
	if err := h.Set(guestapi.Identity{HostAddress: "x", HostAlias: meant}); err == nil {
		t.Error("an address that is none is no error")
	}
}

func allListeners(t *testing.T) []listener {
	t.Helper()
	all, _, err := listeners()
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// socketAt returns the socket of UDP at that address; port 0 means any.
func socketAt(t *testing.T, address netip.AddrPort) (found listener, ok bool) {
	t.Helper()
	for _, l := range allListeners(t) {
		if l.protocol == "udp" && l.address.Addr() == address.Addr() && (l.address.Port() == address.Port() || address.Port() == 0) {
			return l, true
		}
	}
	return found, false
}

// A UDP port that is asked for by its number is a server's, in the ephemeral range, too; one
// that the kernel has chosen is a client's.
func TestAskedPorts(t *testing.T) {
	group := testGroup(t)
	asked, err := newAskedPorts(group)
	if err != nil {
		t.Fatal(err)
	}
	held, err := net.ListenPacket("udp4", "127.77.77.78:51821")
	if err != nil {
		t.Fatal(err)
	}
	defer held.Close()
	for _, test := range []struct {
		does, address string
		client        bool
	}{
		{"bind", "127.77.77.77:51820", false}, {"bind", "[::1]:51820", false}, {"bind", "127.77.77.77:60001", false},
		{"bind", "127.77.77.77:0", true}, {"again 127.77.77.78:51821", "127.77.77.77:0", true},
	} {
		address := netip.MustParseAddrPort(test.address)
		stop := inGroup(t, group, test.does+" "+test.address)
		var l listener
		for end, ok := time.Now().Add(5*time.Second), false; !ok && time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
			l, ok = socketAt(t, address)
		}
		if l.isClient(portRange{1024, 65535}, asked.of) != test.client || l.protocol == "" {
			t.Errorf("%s %s: %+v, a client's: %t", test.does, test.address, l, !test.client)
		}
		if got := stop(); got != "<nil>" {
			t.Errorf("%s %s: %s", test.does, test.address, got)
		}
		if l, ok := socketAt(t, address); ok {
			t.Errorf("%s %s has ended, and there is %+v", test.does, test.address, l)
		}
		if asked.of(l.cookie) != 0 {
			t.Errorf("%s %s has ended, and is remembered", test.does, test.address)
		}
	}
	stop := inGroup(t, group, "tunnel 41999")
	var tunnel listener
	for end, ok := time.Now().Add(5*time.Second), false; !ok && time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		tunnel, ok = socketAt(t, netip.MustParseAddrPort("0.0.0.0:41999"))
	}
	if got := stop(); got != "<nil>" {
		t.Logf("there are no tunnels here: %s", got)
	} else if asked.of(tunnel.cookie) != 41999 {
		t.Errorf("a tunnel at 41999: %+v", tunnel)
	}
	remembered := func() bool {
		attr := words(uint32(asked.sockets), 0, 0, 0, 0, 0, 0, 0)
		var first uint64
		pointer(attr, 16, unsafe.Pointer(&first))
		_, err := bpf(unix.BPF_MAP_GET_NEXT_KEY, attr)
		return err == nil
	}
	group = testGroup(t)
	if asked, err = newAskedPorts(group); err != nil { // without the tunnel's
		t.Fatal(err)
	}
	for what, want := range map[string]bool{"bind 127.77.77.77:51820": true, "apart 0.0.0.0:51820": false} {
		stop := inGroup(t, group, what)
		for end := time.Now().Add(2 * time.Second); !remembered() && time.Now().Before(end); {
			time.Sleep(10 * time.Millisecond)
		}
		if remembered() != want {
			t.Errorf("%s is remembered: %t", what, !want)
		}
		if got := stop(); got != "<nil>" {
			t.Errorf("%s: %s", what, got)
		}
	}
}

// A program that asks for one of the guest's doors gets another port at the same address, and
// it is remembered which door; nothing else is moved.
func TestAskedDoors(t *testing.T) {
	group := testGroup(t)
	asked, err := newAskedPorts(group)
	if err != nil {
		t.Fatal(err)
	}
	for _, port := range []string{"22", "2376"} { // PID 1's, unless somebody here has them
		if l, err := net.Listen("tcp4", "0.0.0.0:"+port); err == nil {
			defer l.Close()
		}
	}
	for _, test := range []struct {
		address string
		door    uint16
	}{{"127.77.77.77:22", 22}, {"127.77.77.77:2376", 2376}, {"[::1]:22", 22}, {"127.77.77.77:23761", 0}, {"127.77.77.77:0", 0}} {
		address := netip.MustParseAddrPort(test.address)
		before := map[uint64]bool{}
		for _, l := range allListeners(t) {
			before[l.cookie] = true
		}
		stop := inGroup(t, group, "listen "+test.address)
		var l listener
		for end := time.Now().Add(5 * time.Second); l.protocol == "" && time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
			for _, one := range allListeners(t) {
				if one.protocol == "tcp" && one.address.Addr() == address.Addr() && !before[one.cookie] && (test.door == 0 || asked.of(one.cookie) != 0) {
					l = one
				}
			}
		}
		port := l.address.Port()
		if asked.of(l.cookie) != test.door || port == 0 || test.door != 0 && port == test.door || test.door == 0 && address.Port() != 0 && port != address.Port() {
			t.Errorf("listening on %s gives %+v, which has asked for %d, want %d", test.address, l, asked.of(l.cookie), test.door)
		}
		if got := stop(); got != "<nil>" {
			t.Errorf("listening on %s: %s", test.address, got)
		}
	}
	if got := inGroup(t, group, "bind 127.77.77.77:22")(); got != "<nil>" {
		t.Errorf("UDP: %s", got)
	}
}

// The ways to the doors change as programs come that ask for them, and go.
func TestDoorWays(t *testing.T) {
	var ran []string
	d := &doorWays{now: map[uint16]uint16{}, run: func(argv ...string) error {
		ran = append(ran, argv[4]+" "+argv[5]+" "+argv[9]+" "+argv[len(argv)-1])
		return nil
	}}
	four, six := publication{protocol: "tcp", hostIP: "0.0.0.0", port: 22}, publication{protocol: "tcp", port: 22}
	for _, test := range []struct {
		moved map[publication]uint16
		want  []string
	}{
		{nil, nil},
		{map[publication]uint16{four: 4000}, []string{"-A PREROUTING 22 4000", "-A OUTPUT 22 4000"}},
		{map[publication]uint16{four: 4000, six: 4001}, nil}, // the first has it
		{map[publication]uint16{six: 4001}, []string{"-D PREROUTING 22 4000", "-D OUTPUT 22 4000", "-A PREROUTING 22 4001", "-A OUTPUT 22 4001"}},
		{nil, []string{"-D PREROUTING 22 4001", "-D OUTPUT 22 4001"}},
	} {
		ran = nil
		if err := d.follow(test.moved); err != nil || !slices.Equal(ran, test.want) {
			t.Errorf("%v: %q, %v; want %q", test.moved, ran, err, test.want)
		}
	}
}
