package supervisor

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"os"
	"runtime"
	"runtime/debug"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/hyve-vm/hyve/internal/control"
	"github.com/hyve-vm/hyve/internal/guestapi"
	"github.com/hyve-vm/hyve/internal/machine"
	"github.com/hyve-vm/hyve/internal/network"
)

// floods are what a hostile guest says, over and over. %d is another number each time.
func floods() map[string]string {
	long := strings.Repeat("x", 60_000)
	return map[string]string{
		"nothing":     "",
		"damaged":     "{" + long,
		"endless":     strings.Repeat("y", 200_000) + "\r", // no newline: added by the next
		"deep":        strings.Repeat("[", 60_000),
		"hello":       `{"hello":{"version":1,"session":1,"bootID":"` + long + `"}}`,
		"reply":       `{"reply":{"id":%d,"error":"` + long + `"}}`,
		"phase":       `{"uptime":-9223372036854775808,"phase":{"name":"%d"}}`,
		"containerd":  `{"uptime":9223372036854775807,"phase":{"name":"containerd"}}`,
		"identity":    `{"phase":{"name":"identity"}}`,
		"engineReady": `{"engineReady":{}}`,
		"failed":      `{"failed":{"phase":"%d","cause":"` + long + `"}}`,
		"fatal":       `{"failed":{"phase":"%d","cause":"` + long + `","fatal":true}}`,
		"log":         `{"log":{"service":"dockerd","line":"%d"}}`,
		"long log":    `{"log":{"service":"init","line":"` + long + `"}}`,
		"unknown log": `{"log":{"service":"%d","line":"` + long + `"}}`,
		"zone":        `{"portOpened":{"id":%d,"protocol":"tcp","hostIP":"fe80::1%%` + long + `","port":80}}`,
		"protocol":    `{"portOpened":{"id":%d,"protocol":"` + long + `","hostIP":"127.0.0.1","port":80}}`,
		"portClosed":  `{"portClosed":{"id":%d}}`,
		"outOfMemory": `{"outOfMemory":{"process":"%d` + long + `","cgroup":"` + long + `"}}`,
		"diskFull":    `{"diskFull":{"freeBytes":%d,"over":true}}`,
		"diskFuller":  `{"diskFull":{"freeBytes":-%d}}`,
		"unreadable":  `{"unreadable":{"driver":"%d` + long + `"}}`,
		"busy":        `{"busy":{"running":true}}`,
		"powerOff":    `{"powerOff":{"reason":"%d` + long + `"}}`,
	}
}

// socketPair is the channel of a guest, as QEMU has it.
func socketPair(t *testing.T) (host, guest net.Conn) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	var ends [2]net.Conn
	for i, fd := range fds {
		file := os.NewFile(uintptr(fd), "guest")
		if ends[i], err = net.FileConn(file); err != nil {
			t.Fatal(err)
		}
		file.Close()
		t.Cleanup(func() { ends[i].Close() })
	}
	return ends[0], ends[1]
}

func descriptors(t *testing.T) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}

func residentMemory(t *testing.T) (bytes int64) {
	t.Helper()
	debug.FreeOSMemory()
	data, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		t.Fatal(err)
	}
	var size, pages int64
	fmt.Sscan(string(data), &size, &pages)
	return pages * int64(os.Getpagesize())
}

// A flood of any kind of event costs the supervisor no memory, no descriptors, little
// processor time and a bounded log, and after it the guest is still heard. The real
// code is at the end of a real socket; what leads to the engine is counted.
func TestEventFlood(t *testing.T) {
	dir := machine.Dir(t.TempDir())
	if err := os.Mkdir(dir.Logs(), 0o700); err != nil {
		t.Fatal(err)
	}
	logs, err := openLogs(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer logs.close()
	log := slog.New(slog.NewTextHandler(&logs.lines, nil))
	board := newBoard(control.Status{})
	const hostsOwn = "what the host has found"
	board.problem(hostsOwn)
	net, err := network.New(network.Config{Log: log})
	if err != nil {
		t.Fatal(err)
	}
	defer net.Close()
	g, err := newGuest(dir, board, log, &ports{network: net, board: board, log: log}, newMailbox())
	if err != nil {
		t.Fatal(err)
	}
	defer g.close()
	var engine, warmed atomic.Int32
	var flying, most atomic.Int32
	dial := func(n *atomic.Int32) func() {
		return func() {
			n.Add(1)
			if now := flying.Add(1); now > most.Load() {
				most.Store(now)
			}
			time.Sleep(20 * time.Millisecond)
			flying.Add(-1)
		}
	}
	idle := newIdle(0)
	var ready, spare flight
	go func() { // as a session does
		for {
			select {
			case m := <-g.inbox.messages:
				switch m.kind {
				case engineUp:
					ready.start(dial(&engine))
				case warm:
					spare.start(dial(&warmed))
				case occupied:
					idle.setBusy(m.runs)
				}
			case <-t.Context().Done():
				return
			}
		}
	}()

	host, end := socketPair(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var talk sync.WaitGroup
	talk.Go(func() {
		g.converse(ctx, host, true, func() (guestapi.Request, error) { return guestapi.Request{Identity: &guestapi.Identity{}}, nil })
	})
	requests := guestapi.NewReader[guestapi.Request](end)
	hello := read(t, requests).Hello
	out := guestapi.NewWriter[guestapi.Event](end)
	say(t, out, guestapi.Event{Hello: &guestapi.GuestHello{Version: guestapi.Version, Session: hello.Session}})
	say(t, out, guestapi.Event{Reply: &guestapi.Reply{ID: openingID}})

	// The guest does not read what it is told either.
	rss, fds, goroutines := residentMemory(t), descriptors(t), runtime.NumGoroutine()
	var before, after unix.Rusage
	unix.Getrusage(unix.RUSAGE_SELF, &before)
	began, bytes := time.Now(), 0
	const each = 400 * time.Millisecond
	for name, line := range floods() {
		until := time.Now().Add(each)
		end.SetWriteDeadline(until)
		said := 0
		for ; time.Now().Before(until); said++ {
			text := line
			if strings.Contains(line, "%d") {
				text = fmt.Sprintf(line, 1000+said)
			}
			n, err := end.Write([]byte(text + "\n"))
			bytes += n
			if err != nil {
				break
			}
		}
		end.SetWriteDeadline(time.Time{})
		if _, err := end.Write([]byte("\n")); err != nil {
			t.Fatal(err)
		}
		t.Logf("%s: %d said", name, said)
	}
	took := time.Since(began)
	unix.Getrusage(unix.RUSAGE_SELF, &after)
	cpu := time.Duration(after.Utime.Nano() + after.Stime.Nano() - before.Utime.Nano() - before.Stime.Nano())
	growth := residentMemory(t) - rss
	t.Logf("%d bytes in %v: %d KiB of memory, %v of processor, %d descriptors, %d goroutines, %d KiB of logs", bytes, took.Round(time.Millisecond),
		growth>>10, cpu.Round(time.Millisecond), descriptors(t)-fds, runtime.NumGoroutine()-goroutines, dirSize(t, dir.Logs())>>10)
	if growth > 32<<20 || descriptors(t) > fds+8 || runtime.NumGoroutine() > goroutines+8 {
		t.Error("it costs too much")
	}
	if size := dirSize(t, dir.Logs()); size > 10*machine.MaxLog {
		t.Errorf("the logs take %d bytes", size)
	}
	if limit := int32(took/flightPause) + 2; engine.Load() > limit || warmed.Load() > limit || most.Load() > 2 {
		t.Errorf("the engine was dialled %d and %d times, %d at once", engine.Load(), warmed.Load(), most.Load())
	}
	status, _ := board.get()
	problems := strings.Join(status.Problems, "\n")
	if !strings.Contains(problems, hostsOwn) || len(status.Problems) > maxProblems || len(problems) > maxProblems*2*guestapi.MaxText {
		t.Errorf("%d problems of %d bytes", len(status.Problems), len(problems))
	}
	if len(status.Timing) > maxSteps {
		t.Errorf("%d steps", len(status.Timing))
	}

	say(t, out, guestapi.Event{Busy: &guestapi.Busy{Running: false}})
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		idle.mu.Lock()
		busy := idle.busy
		idle.mu.Unlock()
		if !busy {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("the guest is not heard any more")
		}
	}
	cancel()
	ended := make(chan bool)
	go func() { talk.Wait(); close(ended) }()
	select {
	case <-ended:
	case <-time.After(5 * time.Second):
		t.Error("the conversation does not end")
	}
}

// A guest that does not read holds nobody up for ever.
func TestDeafGuest(t *testing.T) {
	t.Parallel()
	host, _ := socketPair(t)
	out := patient{host}
	out.Conn.SetWriteDeadline(time.Now())
	big := make([]byte, 4<<20)
	began := time.Now()
	if _, err := out.Write(big); err == nil || time.Since(began) > 2*writePatience {
		t.Errorf("%v after %v", err, time.Since(began))
	}
}
