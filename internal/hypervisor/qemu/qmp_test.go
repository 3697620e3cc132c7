package qemu

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hyve-vm/hyve/internal/hypervisor"
)

// monitor is the other end of a Client: it greets, then answers each command
// by what the test says.
func monitor(t *testing.T, answer func(command string, id uint64, say func(string))) *Client {
	t.Helper()
	here, there := net.Pipe()
	t.Cleanup(func() { there.Close() })
	go func() {
		defer there.Close()
		say := func(s string) { _, _ = io.WriteString(there, s+"\r\n") }
		say(`{"QMP": {"version": {"qemu": {"micro": 22, "minor": 2, "major": 7}, "package": ""}, "capabilities": ["oob"]}}`)
		lines := bufio.NewScanner(there)
		for lines.Scan() {
			var c struct {
				Execute string `json:"execute"`
				ID      uint64 `json:"id"`
			}
			if json.Unmarshal(lines.Bytes(), &c) != nil {
				return
			}
			if c.Execute == "hang up" {
				return
			}
			answer(c.Execute, c.ID, say)
		}
	}()
	c := newClient(here)
	t.Cleanup(func() { c.Close() })
	return c
}

func TestClient(t *testing.T) {
	var held sync.Mutex
	var late []uint64
	c := monitor(t, func(command string, id uint64, say func(string)) {
		switch command {
		case "fail":
			say(fmt.Sprintf(`{"id": %d, "error": {"class": "GenericError", "desc": "no such thing"}}`, id))
		case "late": // answered in the opposite order, an event in between
			held.Lock()
			defer held.Unlock()
			if late = append(late, id); len(late) == 2 {
				say(fmt.Sprintf(`{"return": {"n": 2}, "id": %d}`, late[1]))
				say(`{"timestamp": {"seconds": 1700000000, "microseconds": 250000}, "event": "STOP"}`)
				say(fmt.Sprintf(`{"return": {"n": 1}, "id": %d}`, late[0]))
			}
		case "silent":
		default:
			say(fmt.Sprintf(`{"return": {}, "id": %d}`, id))
		}
	})
	if err := c.handshake(t.Context()); err != nil {
		t.Fatal(err)
	}
	var refused *QMPError
	if err := c.Execute(t.Context(), "fail", nil, nil); !errors.As(err, &refused) || refused.Class != "GenericError" || !strings.Contains(err.Error(), "no such thing") {
		t.Errorf("%v", err)
	}
	type result struct{ N int }
	var one, two result
	done := make(chan error)
	go func() { done <- c.Execute(t.Context(), "late", nil, &one) }()
	for { // the second goes after the first
		held.Lock()
		n := len(late)
		held.Unlock()
		if n == 1 {
			break
		}
		time.Sleep(time.Millisecond)
	}
	if err := c.Execute(t.Context(), "late", nil, &two); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil || one.N != 1 || two.N != 2 {
		t.Errorf("%v, %v, %v", err, one, two)
	}
	if e := <-c.Events(); e.Name != "STOP" || !e.Time.Equal(time.UnixMilli(1700000000250)) {
		t.Errorf("%+v", e)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if err := c.Execute(ctx, "silent", nil, nil); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("%v", err)
	}
	if len(c.pending) != 0 {
		t.Errorf("%d commands are still waited for", len(c.pending))
	}
	if err := c.Execute(t.Context(), "hang up", nil, nil); !errors.Is(err, ErrMonitorClosed) {
		t.Errorf("%v", err)
	}
	<-c.Done()
	if err := c.Execute(t.Context(), "later", nil, nil); !errors.Is(err, ErrMonitorClosed) {
		t.Errorf("%v", err)
	}
	if _, open := <-c.Events(); open {
		t.Error("events go on")
	}
}

// TestEventFlood: events without a reader must not hold up answers.
func TestEventFlood(t *testing.T) {
	c := monitor(t, func(_ string, id uint64, say func(string)) {
		for range 3 * eventBacklog {
			say(`{"event": "BLOCK_IO_ERROR", "data": {"node-name": "hyve-data", "nospace": true, "action": "stop"}, "timestamp": {"seconds": 1, "microseconds": 1}}`)
		}
		say(fmt.Sprintf(`{"return": {}, "id": %d}`, id))
	})
	if err := c.handshake(t.Context()); err != nil {
		t.Fatal(err)
	}
	var data BlockIOErrorData
	if err := json.Unmarshal((<-c.Events()).Data, &data); err != nil || data.Node != "hyve-data" || !data.NoSpace {
		t.Errorf("%+v, %v", data, err)
	}
	if n := len(c.Events()); n != eventBacklog-1 {
		t.Errorf("%d events wait", n)
	}
}

func TestHandshakeWithSomethingElse(t *testing.T) {
	for _, first := range []string{"SSH-2.0-OpenSSH_9.2\n", "{}\n", "", "[1]\n"} {
		here, there := net.Pipe()
		go func() { _, _ = io.WriteString(there, first); there.Close() }()
		if err := newClient(here).handshake(t.Context()); !errors.Is(err, ErrMonitorClosed) {
			t.Errorf("%q: %v", first, err)
		}
	}
}

// TestSendFile has QEMU take over a descriptor and write to it.
func TestSendFile(t *testing.T) {
	onEach(t, func(t *testing.T, q *QEMU) {
		vm := start(t, q, fullConfig(t, guestHang), hypervisor.Options{})
		f, err := os.Create(filepath.Join(t.TempDir(), "state"))
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		m := vm.Monitor()
		if err := vm.Pause(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := m.ExecuteWithFile(t.Context(), "getfd", map[string]string{"fdname": "state"}, f, nil); err != nil {
			t.Fatal(err)
		}
		if err := m.Execute(t.Context(), "migrate", map[string]string{"uri": "fd:state"}, nil); err != nil {
			t.Fatal(err)
		}
		var s struct{ Status string }
		for deadline := time.Now().Add(20 * time.Second); s.Status != "completed"; time.Sleep(10 * time.Millisecond) {
			if err := m.Execute(t.Context(), "query-migrate", nil, &s); err != nil || s.Status == "failed" || time.Now().After(deadline) {
				t.Fatal(s.Status, err)
			}
		}
		if info, err := f.Stat(); err != nil || info.Size() < 64<<10 {
			t.Errorf("%+v, %v", info, err)
		}
	})
}

func FuzzParseQMP(f *testing.F) {
	for _, line := range []string{
		`{"QMP": {"version": {"qemu": {"micro": 22, "minor": 2, "major": 7}, "package": ""}, "capabilities": ["oob"]}}`,
		`{"return": {}, "id": 1}`,
		`{"id": 18446744073709551615, "error": {"class": "CommandNotFound", "desc": "x"}}`,
		`{"timestamp": {"seconds": 1, "microseconds": -1}, "event": "SHUTDOWN", "data": {"guest": true, "reason": "guest-reset"}}`,
		`{"error": {"class": "GenericError", "desc": "JSON parse error"}}`,
		`{"event": null}`, `null`, `{`, ``,
	} {
		f.Add([]byte(line))
	}
	f.Fuzz(func(t *testing.T, line []byte) {
		m, err := parseQMP(line)
		if err != nil {
			return
		}
		if !m.greeting && m.event == nil && m.result == nil && m.refused == nil {
			t.Errorf("%q is nothing", line)
		}
		var result map[string]any
		_ = m.decode("x", &result)
	})
}

func FuzzParseVersion(f *testing.F) {
	f.Add("QEMU emulator version 7.2.22 (Debian 1:7.2+dfsg-7)\nCopyright")
	f.Add("QEMU emulator version 9.1.90 (v9.2.0-rc0)")
	f.Add("QEMU emulator version 4294967296.0")
	f.Fuzz(func(t *testing.T, output string) {
		if v, ok := parseVersion(output); ok && (v.Major < 0 || v.Minor < 0 || v.Micro < 0) {
			t.Errorf("%q is %v", output, v)
		}
	})
}
