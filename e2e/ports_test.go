package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"syscall"
	"testing"
	"time"
)

// status is what tests read of hyve status --format json.
type status struct {
	State         string
	Accelerator   string
	PID           int
	HypervisorPid int
	Problems      []string
	Asleep        bool
	Thawed        bool
	MemoryShared  bool
	BootReason    string
	Endpoints     struct{ SSH, TCP string }
	Ports         []struct {
		Protocol, Address string
		Port              int
	}
}

func statusOf(t *testing.T, name string) status {
	t.Helper()
	var s status
	if err := json.Unmarshal([]byte(hyve(t, "status", "--format", "json", name)), &s); err != nil {
		t.Fatal(err)
	}
	return s
}

// serveIn runs a web server in a container that publishes it on port.
func serveIn(t *testing.T, machine, publish, text string) (id string) {
	t.Helper()
	id = strings.TrimSpace(dock(t, machine, "run", "-d", "-p", publish, "busybox", "sh", "-c",
		"mkdir -p /www && echo "+text+" > /www/index.html && exec httpd -f -p 80 -h /www"))
	t.Cleanup(func() { try(limit, docker, "--context", "hyve-"+machine, "rm", "-f", id) })
	return id
}

// get asks a web server, which may take a moment to listen in its container
// after docker run has returned.
func get(t *testing.T, address string) string {
	t.Helper()
	var text string
	eventually(t, "an answer from "+address, func() bool {
		response, err := http.Get("http://" + address + "/")
		if err != nil {
			return false
		}
		defer response.Body.Close()
		body, err := io.ReadAll(response.Body)
		text = strings.TrimSpace(string(body))
		return err == nil && response.StatusCode == http.StatusOK
	})
	return text
}

func connects(address string) bool {
	conn, err := net.DialTimeout("tcp", address, time.Second)
	if err == nil {
		conn.Close()
	}
	return err == nil
}

func TestPublishedTCP(t *testing.T) {
	id := serveIn(t, shared, "18080:80", "served")
	// The port is open when docker run returns: no waiting here.
	ip := strings.TrimSpace(hyve(t, "ip", shared))
	for _, address := range []string{"127.0.0.1:18080", ip + ":18080"} {
		if !connects(address) {
			t.Errorf("%s is shut after docker run", address)
		}
		if text := get(t, address); text != "served" {
			t.Errorf("%s serves %q", address, text)
		}
	}
	dock(t, shared, "stop", "-t", "0", id)
	eventually(t, "the port shuts with its container", func() bool { return !connects("127.0.0.1:18080") && !connects(ip+":18080") })
}

func TestPublishedOnLoopback(t *testing.T) {
	serveIn(t, shared, "127.0.0.1:18081:80", "local")
	if text := get(t, "127.0.0.1:18081"); text != "local" {
		t.Errorf("serves %q", text)
	}
}

func TestPublishedUDP(t *testing.T) {
	id := strings.TrimSpace(dock(t, shared, "create", "-p", "18053:53/udp", "busybox", "/udp-echo"))
	t.Cleanup(func() { dock(t, shared, "rm", "-f", id) })
	dock(t, shared, "cp", buildForGuest(t, "udp-echo"), id+":/udp-echo")
	dock(t, shared, "start", id)
	conn, err := net.Dial("udp", "127.0.0.1:18053")
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	answer := make([]byte, 100)
	eventually(t, "an echo by UDP", func() bool {
		fmt.Fprint(conn, "ping")
		conn.SetReadDeadline(time.Now().Add(time.Second))
		n, err := conn.Read(answer)
		return err == nil && string(answer[:n]) == "ping"
	})
	dock(t, shared, "stop", "-t", "0", id)
	eventually(t, "the port shuts with its container", func() bool {
		fmt.Fprint(conn, "ping")
		conn.SetReadDeadline(time.Now().Add(time.Second))
		_, err := conn.Read(answer)
		return errors.Is(err, syscall.ECONNREFUSED)
	})
}

// A port that another program has is a problem of the status, and the
// container's as soon as the other lets go of it.
func TestTakenPort(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:18082")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	serveIn(t, shared, "18082:80", "mine")
	ip := strings.TrimSpace(hyve(t, "ip", shared))
	if text := get(t, ip+":18082"); text != "mine" {
		t.Errorf("the machine's own address serves %q", text)
	}
	reported := func() bool {
		for _, p := range statusOf(t, shared).Problems {
			if strings.Contains(p, "18082") && strings.Contains(p, "address already in use") {
				return true
			}
		}
		return false
	}
	eventually(t, "the status names the taken port", reported)
	if logs := hyve(t, "logs", "--service", "supervisor", shared); !strings.Contains(logs, "18082") {
		t.Error("hyve logs does not name the port")
	}
	l.Close()
	if text := get(t, "127.0.0.1:18082"); text != "mine" {
		t.Errorf("serves %q", text)
	}
	eventually(t, "the problem is taken back", func() bool { return !reported() })
}

func TestTwoMachinesOnePort(t *testing.T) {
	create(t, "second")
	serveIn(t, shared, "18083:80", "first")
	serveIn(t, "second", "18083:80", "second")
	for machine, want := range map[string]string{shared: "first", "second": "second"} {
		ip := strings.TrimSpace(hyve(t, "ip", machine))
		if text := get(t, ip+":18083"); text != want {
			t.Errorf("%s of machine %s serves %q", ip, machine, text)
		}
	}
	if text := get(t, "127.0.0.1:18083"); text != "first" {
		t.Errorf("localhost serves %q, want whoever came first", text)
	}
	if out := hyve(t, "ls"); strings.Count(out, "Running") != 2 {
		t.Errorf("ls: %s", out)
	}
}

// Nothing listens beyond the host's loopback.
func TestNothingListensBeyondLoopback(t *testing.T) {
	serveIn(t, shared, "18084:80", "x")
	addresses, err := net.InterfaceAddrs()
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range addresses {
		ip := a.(*net.IPNet).IP
		if ip.IsLoopback() || ip.To4() == nil {
			continue
		}
		for _, port := range []string{"18084", "2376", "2222"} {
			if connects(net.JoinHostPort(ip.String(), port)) {
				t.Errorf("%s:%s answers", ip, port)
			}
		}
	}
}
