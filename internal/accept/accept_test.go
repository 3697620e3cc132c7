package accept

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestMain is also the other processes that the tests start.
func TestMain(m *testing.M) {
	switch os.Getenv("ACCEPT_TEST") {
	case "descriptors":
		fmt.Println(Descriptors())
	case "dial":
		conn, err := net.Dial("tcp", os.Getenv("ACCEPT_TEST_ADDRESS"))
		if err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		io.Copy(io.Discard, conn)
	case "leave":
		for range leavers {
			conn, err := net.Dial("tcp", os.Getenv("ACCEPT_TEST_ADDRESS"))
			if err != nil {
				fmt.Println(err)
				os.Exit(1)
			}
			conn.Close()
		}
	case "starve":
		starve()
	default:
		os.Exit(m.Run())
	}
}

func another(t *testing.T, role string, env ...string) *exec.Cmd {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self)
	cmd.Env = append(append(os.Environ(), "ACCEPT_TEST="+role), env...)
	cmd.Stderr = os.Stderr
	return cmd
}

// starve is a process that has no descriptor left while somebody connects, on a listener
// of each kind, and has some afterwards.
func starve() {
	for _, network := range []string{"tcp", "unix"} {
		if err := starveOn(network); err != nil {
			fmt.Println(network, err)
			os.Exit(1)
		}
	}
	fmt.Println("served")
}

func starveOn(network string) error {
	address := "127.0.0.1:0"
	if network == "unix" {
		address = filepath.Join(os.Getenv("ACCEPT_TEST_DIR"), "s")
	}
	l, err := net.Listen(network, address)
	if err != nil {
		return err
	}
	defer l.Close()
	go new(Door).Serve(context.Background(), l, func(conn net.Conn) {
		defer conn.Close()
		io.WriteString(conn, "here")
	})
	client, err := syscall.Dup(0) // a place for the client's descriptor
	if err != nil {
		return err
	}
	var all []*os.File
	for {
		f, err := os.Open(os.DevNull)
		if err != nil {
			break
		}
		all = append(all, f)
	}
	syscall.Close(client)
	conn, err := net.Dial(network, l.Addr().String())
	if err != nil {
		return err
	}
	defer conn.Close()
	conn.SetReadDeadline(time.Now().Add(200 * time.Millisecond))
	if _, err := conn.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
		return fmt.Errorf("a connection was served without descriptors: %v", err)
	}
	for _, f := range all {
		f.Close()
	}
	conn.SetReadDeadline(time.Now().Add(10 * time.Second))
	got, err := io.ReadAll(conn)
	if string(got) != "here" {
		return fmt.Errorf("after the lack: %q, %v", got, err)
	}
	return nil
}

func TestSurvivesALackOfDescriptors(t *testing.T) {
	cmd := another(t, "starve", "ACCEPT_TEST_DIR="+t.TempDir())
	cmd.Args[0] = "sh"
	self := cmd.Path
	cmd.Path = "/bin/sh"
	cmd.Args = []string{"sh", "-c", "ulimit -n 64; exec " + self}
	out, err := cmd.Output()
	if strings.TrimSpace(string(out)) != "served" {
		t.Fatalf("%s, %v", out, err)
	}
}

// A flaky listener fails in every way that accept(2) knows before it gives a connection.
type flaky struct {
	net.Listener
	errs chan error
}

func (f *flaky) Accept() (net.Conn, error) {
	select {
	case err := <-f.errs:
		return nil, err
	default:
		return f.Listener.Accept()
	}
}

func TestOnlyAClosedListenerEnds(t *testing.T) {
	errs := []error{unix.EMFILE, unix.ENFILE, unix.ENOBUFS, unix.ENOMEM, unix.ECONNABORTED, unix.EPROTO, unix.EPERM, errors.New("unheard of")}
	f := &flaky{listen(t), make(chan error, len(errs))}
	for _, err := range errs {
		f.errs <- &net.OpError{Op: "accept", Err: err}
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		new(Door).Serve(t.Context(), f, func(conn net.Conn) {
			io.WriteString(conn, "here")
			conn.Close()
		})
	}()
	conn, err := net.Dial("tcp", f.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if got, err := io.ReadAll(conn); string(got) != "here" {
		t.Fatalf("%q, %v", got, err)
	}
	f.Close()
	select {
	case <-ended:
	case <-time.After(5 * time.Second):
		t.Fatal("Serve does not end with its listener")
	}
}

func listen(t *testing.T) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

// serve greets whoever is let in and holds the connection until the client ends it.
func serve(t *testing.T, d *Door, l net.Listener) {
	t.Helper()
	go d.Serve(t.Context(), l, greet)
}

func greet(conn net.Conn) {
	defer conn.Close()
	io.WriteString(conn, "1")
	io.Copy(io.Discard, conn)
}

// letIn connects and returns the connection if it was let in, or else nil.
func letIn(t *testing.T, l net.Listener) net.Conn {
	t.Helper()
	conn, err := net.Dial("tcp", l.Addr().String())
	if errors.Is(err, syscall.ECONNRESET) {
		return nil
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	conn.SetReadDeadline(time.Now().Add(10 * time.Second))
	if n, err := conn.Read(make([]byte, 1)); n == 0 {
		if errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatal("neither let in nor hung up on")
		}
		conn.Close()
		return nil
	}
	return conn
}

func TestBudgetsOfListenerAndAll(t *testing.T) {
	all := NewBudget(3, 3)
	first, second := NewBudget(2, 2), NewBudget(2, 2)
	l1, l2 := listen(t), listen(t)
	serve(t, &Door{Budgets: []*Budget{first, all}}, l1)
	serve(t, &Door{Budgets: []*Budget{second, all}}, l2)
	a, b := letIn(t, l1), letIn(t, l1)
	if a == nil || b == nil {
		t.Fatal("not let in within the budget")
	}
	if letIn(t, l1) != nil {
		t.Error("let in beyond the listener's budget")
	}
	if letIn(t, l2) == nil {
		t.Error("the budget that is left is not given")
	}
	if letIn(t, l2) != nil {
		t.Error("let in beyond the budget of all")
	}
	a.Close()
	eventually(t, func() bool { return all.Held() == 2 }, "what a connection took is not given back")
	if letIn(t, l2) == nil {
		t.Error("what was given back cannot be taken")
	}
}

func TestListenerGivesBackWhenClosed(t *testing.T) {
	budget := NewBudget(1, 1)
	l := (&Door{Budgets: []*Budget{budget}}).Listener(listen(t))
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go greet(conn)
		}
	}()
	conn := letIn(t, l)
	if conn == nil || letIn(t, l) != nil {
		t.Fatal("the budget does not count")
	}
	conn.Close()
	eventually(t, func() bool { return budget.Held() == 0 }, "not given back")
	if letIn(t, l) == nil {
		t.Error("not let in again")
	}
}

func TestListenerCloseEndsAccept(t *testing.T) {
	f := &flaky{listen(t), make(chan error, 1000)}
	for range cap(f.errs) {
		f.errs <- unix.EMFILE
	}
	l := new(Door).Listener(f)
	ended := make(chan error, 1)
	go func() { _, err := l.Accept(); ended <- err }()
	l.Close()
	select {
	case err := <-ended:
		if !errors.Is(err, net.ErrClosed) {
			t.Error(err)
		}
	case <-time.After(5 * time.Second):
		t.Fatal("Accept does not end with its listener")
	}
}

func TestNoGoroutineIsLeft(t *testing.T) {
	before := runtime.NumGoroutine()
	l := listen(t)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	var handled atomic.Int32
	go func() {
		defer close(ended)
		new(Door).Serve(ctx, l, func(conn net.Conn) {
			handled.Add(1)
			defer conn.Close()
			<-ctx.Done()
		})
	}()
	for range 10 {
		conn, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
	}
	eventually(t, func() bool { return handled.Load() == 10 }, "not accepted")
	cancel()
	<-ended
	eventually(t, func() bool { return runtime.NumGoroutine() <= before }, "goroutines are left")
}

func TestSourceIsTheLocalUser(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("tells nobody's user")
	}
	if os.Getuid() != 0 {
		t.Skip("cannot be somebody else")
	}
	l := listen(t)
	probe, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer probe.Close()
	conn, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if Source(conn) == local {
		t.Skip("this kernel does not tell who owns a socket")
	}
	budget := NewBudget(10, 2)
	serve(t, &Door{Budgets: []*Budget{budget}}, l)
	stranger(t, l)
	stranger(t, l)
	stranger(t, l) // beyond his share
	eventually(t, func() bool { return budget.Held() == 2 }, "the stranger's connections")
	time.Sleep(50 * time.Millisecond)
	if held := budget.Held(); held != 2 {
		t.Errorf("a stranger holds %d of 2", held)
	}
	if letIn(t, l) == nil {
		t.Error("another user's connections keep this one's out")
	}
}

// Who closes before he is accepted has no user that the kernel still knows. He is not
// taken for somebody who is there.
func TestWhoHasLeftTakesNobodysShare(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("cannot be somebody else")
	}
	l := listen(t)
	cmd := strangerAs(t, "leave", l)
	if err := cmd.Run(); err != nil {
		t.Fatal(err)
	}
	budget := NewBudget(4*share, share)
	go (&Door{Budgets: []*Budget{budget}}).Serve(t.Context(), l, func(conn net.Conn) {
		defer conn.Close()
		io.WriteString(conn, "1")
		<-t.Context().Done()
	})
	for i := range share {
		if letIn(t, l) == nil {
			t.Fatalf("%d of this user's %d are let in", i, share)
		}
	}
	if letIn(t, l) != nil {
		t.Error("this user has more than his share")
	}
	if held := budget.Held() - share; held > share/4 {
		t.Errorf("those who have left hold %d, want %d", held, share/4)
	}
}

const (
	share   = 8
	leavers = 3 * share
)

// Other users together leave this one a part.
func TestOthersLeaveThisUserAPart(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("tells nobody's user")
	}
	budget := NewBudget(8, 4)
	budget.KeepOwn(2)
	for uid := range 8 {
		budget.Take(fmt.Sprintf("uid %d", 70000+uid))
	}
	if held := budget.Held(); held != 6 {
		t.Errorf("others hold %d, want 6", held)
	}
	for _, own := range []string{fmt.Sprintf("uid %d", os.Getuid()), fmt.Sprintf("pid %d", os.Getpid())} {
		if !budget.Take(own) {
			t.Errorf("nothing is left for %s", own)
		}
	}
	if budget.Take("uid 70000") {
		t.Error("more than there is")
	}
	// What is this user's does not count as others'.
	budget.Give("uid 70000")
	if !budget.Take("uid 70009") {
		t.Error("another's place is not given to another")
	}
}

// stranger has another user connect.
func stranger(t *testing.T, l net.Listener) {
	t.Helper()
	cmd := strangerAs(t, "dial", l)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
}

// strangerAs is a process of another user.
func strangerAs(t *testing.T, role string, l net.Listener) *exec.Cmd {
	t.Helper()
	dir := t.TempDir()
	for d := dir; len(d) > len(os.TempDir()); d = filepath.Dir(d) {
		os.Chmod(d, 0o755)
	}
	data, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "stranger")
	if err := os.WriteFile(path, data, 0o755); err != nil {
		t.Fatal(err)
	}
	cmd := another(t, role, "ACCEPT_TEST_ADDRESS="+l.Addr().String())
	cmd.Path, cmd.Dir = path, "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	return cmd
}

func TestSourceOfAUnixSocketIsTheProcess(t *testing.T) {
	l, err := net.Listen("unix", filepath.Join(t.TempDir(), "s"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	client, err := net.Dial("unix", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	conn, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	want := local
	if runtime.GOOS == "linux" {
		want = fmt.Sprintf("pid %d", os.Getpid())
	}
	if got := Source(conn); got != want {
		t.Errorf("source %q, want %q", got, want)
	}
}

func TestSourceOfAddresses(t *testing.T) {
	for address, want := range map[string]string{
		"10.1.2.3":                "10.1.2.3",
		"2001:db8:1:2:3:4:5:6":    "2001:db8:1:2::/64",
		"2001:db8:1:2:ffff::":     "2001:db8:1:2::/64",
		"fe80::1%eth0":            "fe80::/64",
		"::ffff:10.1.2.3":         "10.1.2.3",
		"2001:db8:1:3::1":         "2001:db8:1:3::/64",
		"fd00:aaaa:bbbb:cccc::12": "fd00:aaaa:bbbb:cccc::/64",
	} {
		ip, err := net.ResolveTCPAddr("tcp", net.JoinHostPort(address, "1"))
		if err != nil {
			t.Fatal(err)
		}
		if got := Source(addressed{remote: ip}); got != want {
			t.Errorf("%s: %q, want %q", address, got, want)
		}
	}
}

type addressed struct {
	net.Conn
	remote net.Addr
}

func (a addressed) RemoteAddr() net.Addr { return a.remote }

func TestDescriptorsAreRaisedToTheHardLimit(t *testing.T) {
	cmd := another(t, "descriptors")
	cmd.Args = []string{"sh", "-c", "ulimit -Sn 100; ulimit -Hn 333; exec " + cmd.Path}
	cmd.Path = "/bin/sh"
	out, err := cmd.Output()
	// Package os stays one below, to find the old limit again.
	if got := strings.TrimSpace(string(out)); got != "333" && got != "332" {
		t.Errorf("%s, %v", got, err)
	}
}

func TestBudgetSmallest(t *testing.T) {
	b := NewBudget(0, 0)
	if !b.Take("a") || b.Take("b") {
		t.Error("the smallest budget is not one")
	}
}

func eventually(t *testing.T, f func() bool, what string) {
	t.Helper()
	for range 500 {
		if f() {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Error(what)
}
