package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// status is what tests read of hyve status --format json.
type status struct {
	State       string
	Accelerator string
	// why it is not the host's own
	AcceleratorReason string
	PID               int
	HypervisorPid     int
	Problems          []string
	Asleep            bool
	Thawed            bool
	MemoryShared      bool
	Frozen            bool
	BootReason        string
	Endpoints         struct{ SSH, TCP string }
	Ports             []struct {
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
	id := strings.TrimSpace(dock(t, shared, "create", "-p", "18053:53/udp", "busybox", "/echo"))
	t.Cleanup(func() { dock(t, shared, "rm", "-f", id) })
	dock(t, shared, "cp", buildForGuest(t, "echo"), id+":/echo")
	dock(t, shared, "start", id)
	shut := echoes(t, "udp", "127.0.0.1:18053")
	dock(t, shared, "stop", "-t", "0", id)
	eventually(t, "the port shuts with its container", shut)
}

// echoes waits for the program echo to answer at an address. shut then tells whether nobody
// does.
func echoes(t *testing.T, network, address string) (shut func() bool) {
	t.Helper()
	var conn net.Conn
	ping := func() (string, error) {
		var err error
		if network == "tcp" || conn == nil {
			if conn, err = net.Dial(network, address); err != nil {
				return "", err
			}
			opened := conn
			t.Cleanup(func() { opened.Close() })
		}
		answer := make([]byte, 100)
		fmt.Fprint(conn, "ping")
		conn.SetReadDeadline(time.Now().Add(time.Second))
		n, err := conn.Read(answer)
		return string(answer[:n]), err
	}
	eventually(t, "an echo by "+network+" from "+address, func() bool {
		answer, err := ping()
		return err == nil && answer == "ping"
	})
	return func() bool {
		_, err := ping()
		return errors.Is(err, syscall.ECONNREFUSED)
	}
}

// A port that another program has is refused as docker refuses it, and it is said who has
// it; the container can have it as soon as the other lets go.
func TestTakenPort(t *testing.T) {
	// The second is one of those from which docker chooses.
	for address, port := range map[string]string{"127.0.0.1:18082": "18082", "[::1]:48082": "48082"} {
		l, err := net.Listen("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		_, text, code := result(t, docker, "--context", "hyve-"+shared, "run", "--rm", "-p", port+":80", "busybox", "true")
		me := fmt.Sprintf("%s of the host is held by %s (process %d)", address, filepath.Base(os.Args[0]), os.Getpid())
		for _, want := range []string{"driver failed programming external connectivity on endpoint", ":" + port + ": bind: address already in use", me} {
			if code == 0 || !strings.Contains(text, want) {
				t.Errorf("docker run with %s taken: exit status %d, want %q in\n%s", address, code, want, text)
			}
		}
		l.Close()
	}
	for _, p := range statusOf(t, shared).Problems {
		if strings.Contains(p, "18082") || strings.Contains(p, "48082") {
			t.Errorf("a port that nobody has is a problem: %s", p)
		}
	}
	serveIn(t, shared, "18082:80", "mine")
	if text := get(t, "127.0.0.1:18082"); text != "mine" {
		t.Errorf("serves %q", text)
	}
}

// chosenPort is where a container's port is published.
func chosenPort(t *testing.T, machine, id, port string) int {
	t.Helper()
	line, _, _ := strings.Cut(dock(t, machine, "port", id, port), "\n")
	_, number, err := net.SplitHostPort(line)
	if err != nil {
		t.Fatalf("docker port says %q: %v", line, err)
	}
	n, err := strconv.Atoi(number)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// docker28 tells whether docker tries the next port of a range, and gives a container one port
// for both families. 26 does neither, on bare Linux as well.
func docker28(t *testing.T) bool {
	t.Helper()
	return !strings.HasPrefix(dock(t, shared, "version", "-f", "{{.Server.Version}}"), "26.")
}

// bind takes a port of TCP or UDP until it is closed.
func bind(network, address string) (io.Closer, error) {
	if network == "udp" {
		return net.ListenPacket(network, address)
	}
	return net.Listen(network, address)
}

// takePorts takes some ports of localhost until the test ends, of either family where that
// is enough. Those that somebody has are taken already.
func takePorts(t *testing.T, network string, from, count int) {
	t.Helper()
	hosts := []string{"127.0.0.1"}
	if docker28(t) {
		hosts = append(hosts, "[::1]")
	}
	for port := from; port < from+count; port++ {
		held, err := bind(network, fmt.Sprintf("%s:%d", hosts[port%len(hosts)], port))
		if err == nil {
			t.Cleanup(func() { held.Close() })
		} else if !errors.Is(err, syscall.EADDRINUSE) {
			t.Fatal(err)
		}
	}
}

// isChosen fails the test if a container was given one of those ports, or one that it does
// not have on the host.
func isChosen(t *testing.T, network string, port, from, count int) {
	t.Helper()
	if from <= port && port < from+count {
		t.Errorf("docker was given port %d of %s, which is taken", port, network)
	}
	if free, err := bind(network, fmt.Sprintf("127.0.0.1:%d", port)); err == nil {
		free.Close()
		t.Errorf("port %d of %s is not the container's", port, network)
	}
}

// A port of docker's choice is one that the host has not given away, whatever docker chooses
// from.
func TestChosenPort(t *testing.T) {
	id := strings.TrimSpace(dock(t, shared, "run", "-d", "-p", "80", "-p", "53/udp", "busybox", "sleep", "100000"))
	t.Cleanup(func() { try(limit, docker, "--context", "hyve-"+shared, "rm", "-f", id) })
	const ranged, count = 20200, 4
	tcp, udp := chosenPort(t, shared, id, "80/tcp")+1, chosenPort(t, shared, id, "53/udp")+1
	takePorts(t, "tcp", tcp, count)
	takePorts(t, "udp", udp, count)
	if docker28(t) {
		takePorts(t, "tcp", ranged, count)
	}

	id = strings.TrimSpace(dock(t, shared, "run", "--rm", "-d", "-P", "--expose", "81", "-p", "80", "-p", "53/udp", "-p", "20200-20210:82", "busybox", "sh", "-c",
		"mkdir -p /www && echo chosen > /www/index.html && exec httpd -f -p 80 -h /www"))
	t.Cleanup(func() { try(limit, docker, "--context", "hyve-"+shared, "rm", "-f", id) })
	isChosen(t, "tcp", chosenPort(t, shared, id, "80/tcp"), tcp, count)
	isChosen(t, "tcp", chosenPort(t, shared, id, "81/tcp"), tcp, count)
	isChosen(t, "udp", chosenPort(t, shared, id, "53/udp"), udp, count)
	if docker28(t) {
		isChosen(t, "tcp", chosenPort(t, shared, id, "82/tcp"), ranged, count)
	}
	if text := get(t, fmt.Sprintf("127.0.0.1:%d", chosenPort(t, shared, id, "80/tcp"))); text != "chosen" {
		t.Errorf("it serves %q", text)
	}
}

// So it is of containers that are started at once, also from within, of those that docker
// starts by itself when the machine has booted, and of compose's.
func TestChosenPortRare(t *testing.T) {
	takesLong(t)
	const name, count = "rebooted", 4
	t.Run("at once", func(t *testing.T) { chosenAtOnce(t, count) }) // then its ports are free again
	create(t, name)
	id := strings.TrimSpace(dock(t, name, "run", "-d", "--restart", "always", "-p", "80", "busybox", "sleep", "100000"))
	port := chosenPort(t, name, id, "80/tcp")
	hyve(t, "stop", "--cold", name)
	takePorts(t, "tcp", port, count)
	hyve(t, "start", "--cold", name)
	eventually(t, "the container runs again", func() bool {
		out, err := try(limit, docker, "--context", "hyve-"+name, "port", id, "80/tcp")
		return err == nil && out != ""
	})
	isChosen(t, "tcp", chosenPort(t, name, id, "80/tcp"), port, count)

	c := plugins(t)
	writeFiles(t, c.dir, map[string]string{"compose.yaml": "name: chosen\nservices:\n  web:\n    image: busybox\n    command: sleep 100000\n    ports: [\"80\", \"20300-20310:81\"]\n"})
	t.Cleanup(func() { c.command(context.Background(), docker, "compose", "down", "-t", "0").Run() })
	const ranged = 20300
	if docker28(t) {
		takePorts(t, "tcp", ranged, count)
	}
	next := chosenPort(t, shared, strings.TrimSpace(dock(t, shared, "run", "--rm", "-d", "-p", "80", "busybox", "sleep", "10")), "80/tcp") + 1
	takePorts(t, "tcp", next, count)
	c.run(t, docker, "compose", "up", "--detach", "--quiet-pull")
	isChosen(t, "tcp", chosenPort(t, shared, "chosen-web-1", "80/tcp"), next, count)
	if docker28(t) {
		isChosen(t, "tcp", chosenPort(t, shared, "chosen-web-1", "81/tcp"), ranged, count)
	}
}

// chosenAtOnce starts two containers: by the host's socket, and by the guest's own.
func chosenAtOnce(t *testing.T, count int) {
	t.Helper()
	id := strings.TrimSpace(dock(t, shared, "run", "-d", "-p", "80", "busybox", "sleep", "100000"))
	t.Cleanup(func() { try(limit, docker, "--context", "hyve-"+shared, "rm", "-f", id) })
	tcp := chosenPort(t, shared, id, "80/tcp") + 1
	takePorts(t, "tcp", tcp, count)
	names := []string{"chosen-outside", "chosen-inside"}
	failed := make(chan error, len(names))
	for i, words := range [][]string{{docker, "--context", "hyve-" + shared, "run", "--rm"}, {binary, "ssh", shared, "--", "docker", "run"}} {
		go func() {
			_, err := try(limit, words[0], append(words[1:], "-d", "--name", names[i], "-p", "80", "busybox", "sleep", "100000")...)
			failed <- err
		}()
		t.Cleanup(func() { try(limit, docker, "--context", "hyve-"+shared, "rm", "-f", names[i]) })
	}
	for range names {
		if err := <-failed; err != nil {
			t.Error(err)
		}
	}
	for _, name := range names {
		if !t.Failed() {
			isChosen(t, "tcp", chosenPort(t, shared, name, "80/tcp"), tcp, count)
		}
	}
}

func TestPublishedByName(t *testing.T) {
	ip := strings.TrimSpace(hyve(t, "ip", shared))
	serveIn(t, shared, "[::1]:18085:80", "six")
	serveIn(t, shared, "127.0.0.1:18085:80", "four")
	for address, want := range map[string]string{"[::1]:18085": "six", "127.0.0.1:18085": "four", ip + ":18085": "four"} {
		if text := get(t, address); text != want {
			t.Errorf("%s serves %q, want %q", address, text, want)
		}
	}
	for _, address := range []string{"127.0.0.2", "127.18.0.1", "192.0.2.1"} {
		_, text, code := result(t, docker, "--context", "hyve-"+shared, "run", "--rm", "-p", address+":18086:80", "busybox", "true")
		if code == 0 || !strings.Contains(text, "not this machine's") {
			t.Errorf("%s: exit status %d\n%s", address, code, text)
		}
	}
}

// SCTP is refused where docker can be told. It and UDP-Lite are a problem while somebody listens.
func TestPublishedSCTP(t *testing.T) {
	_, text, code := result(t, docker, "--context", "hyve-"+shared, "run", "--rm", "-p", "18087:80/sctp", "busybox", "true")
	if code == 0 || !strings.Contains(text, "protocol not supported") {
		t.Errorf("exit status %d\n%s", code, text)
	}
	hyve(t, "scp", buildForGuest(t, "echo"), shared+":/home/docker/echo")
	dock(t, shared, "run", "-d", "--rm", "--name", "sctp", "--network", "host", "-v", "/home/docker/echo:/echo", "busybox", "/echo", "sctp", "0.0.0.0:18087", "udplite", "0.0.0.0:18088")
	told := func() bool { return saysAlone(t, "sctp", "18087") && saysAlone(t, "udplite", "18088") }
	eventually(t, "the status says that they are not published", told)
	dock(t, shared, "rm", "-f", "sctp")
	eventually(t, "they are no problem any more", func() bool { return !saysAlone(t, "sctp", "18087") && !saysAlone(t, "udplite", "18088") })
}

// saysAlone reports whether the status says that a port of such a protocol is not published.
func saysAlone(t *testing.T, protocol, port string) bool {
	return slices.ContainsFunc(statusOf(t, shared).Problems, func(problem string) bool {
		return strings.HasPrefix(problem, "publishing "+protocol+" port "+port+" on ") && strings.HasSuffix(problem, ": protocol not supported")
	})
}

// The guest's own doors are in nobody's way.
func TestPublishedDoors(t *testing.T) {
	serveIn(t, shared, "2376:80", "engine")
	if text := get(t, "127.0.0.1:2376"); text != "engine" {
		t.Errorf("2376 serves %q", text)
	}
	if l, err := net.Listen("tcp", "127.0.0.1:22"); err == nil {
		l.Close()
		serveIn(t, shared, "22:80", "sshd")
		if text := get(t, "127.0.0.1:22"); text != "sshd" {
			t.Errorf("22 serves %q", text)
		}
	} else {
		t.Logf("port 22 is not to be had: %v", err)
	}
	if out := hyve(t, "ssh", shared, "--", "echo", "in"); out != "in\n" {
		t.Errorf("hyve ssh says %q", out)
	}
	out, err := try(limit, binary, "docker", shared, "version")
	if err != nil {
		out, err = try(limit, docker, "--context", "hyve-"+shared, "version")
	}
	if err != nil {
		t.Errorf("the engine does not answer: %v\n%s", err, out)
	}
}

// What listens in the guest's own network is reachable like a published port.
func TestHostNetwork(t *testing.T) {
	ip := strings.TrimSpace(hyve(t, "ip", shared))
	id := strings.TrimSpace(dock(t, shared, "run", "-d", "--network", "host", "busybox", "sh", "-c",
		"mkdir -p /www && echo host > /www/index.html && (httpd -f -p 127.0.0.1:18089 -h /www &) ; exec httpd -f -p 18088 -h /www"))
	t.Cleanup(func() { try(limit, docker, "--context", "hyve-"+shared, "rm", "-f", id) })
	for _, address := range []string{"127.0.0.1:18088", ip + ":18088"} {
		if text := get(t, address); text != "host" {
			t.Errorf("%s serves %q", address, text)
		}
	}
	if connects(ip + ":18089") {
		t.Error("what listens on the guest's loopback answers on the machine's address")
	}
	for _, p := range statusOf(t, shared).Ports {
		if p.Port == 22 || p.Port == 2376 {
			t.Errorf("the guest's own door is published: %+v", p)
		}
	}
	dock(t, shared, "stop", "-t", "0", id)
	eventually(t, "the port shuts with its program", func() bool { return !connects("127.0.0.1:18088") })
}

// So it is whatever the protocol, the family and the port, but for clients' sockets.
func TestHostNetworkKinds(t *testing.T) {
	ip := strings.TrimSpace(hyve(t, "ip", shared))
	id := strings.TrimSpace(dock(t, shared, "create", "--network", "host", "busybox", "/echo",
		"udp4", ":51820", "udp", ":18094", "tcp6", "[::]:18095", "udp6", "[::]:18096",
		"udp4", "0.0.0.0:0", "udp6", "[::]:0", "tcp6", "[::1]:18097", "tcp4", "0.0.0.0:2376"))
	t.Cleanup(func() { try(limit, docker, "--context", "hyve-"+shared, "rm", "-f", id) })
	dock(t, shared, "cp", buildForGuest(t, "echo"), id+":/echo")
	// A port that docker has chosen for a container that then did not start stays for a while.
	before := statusOf(t, shared).Ports
	dock(t, shared, "start", id)
	var shut []func() bool
	for _, at := range []struct{ network, address string }{
		{"udp", "127.0.0.1:51820"}, {"udp", ip + ":51820"}, {"udp", "127.0.0.1:18094"}, {"udp", "[::1]:18094"},
		{"tcp", "[::1]:18095"}, {"udp", "[::1]:18096"}, {"tcp", "127.0.0.1:2376"},
	} {
		shut = append(shut, echoes(t, at.network, at.address))
	}
	for _, p := range statusOf(t, shared).Ports {
		if !slices.Contains(before, p) && (p.Protocol == "udp" && p.Port >= 32768 && p.Port != 51820 || p.Port == 18097) {
			t.Errorf("a client's socket, or one of the guest's loopback, is published: %+v", p)
		}
	}
	// Where the service stands in place of one of the guest's doors, it does so inside, too.
	for _, network := range []string{"host", "bridge"} {
		address := "127.0.0.1"
		if network == "bridge" {
			address = "172.17.0.1"
		}
		eventually(t, "an echo from within, on network "+network, func() bool {
			out, err := try(limit, docker, "--context", "hyve-"+shared, "run", "--rm", "--network", network, "busybox", "sh", "-c", "echo ping | nc -w 5 "+address+" 2376")
			return err == nil && strings.TrimSpace(out) == "ping"
		})
	}
	if out := hyve(t, "ssh", shared, "--", "netstat", "-tln"); !strings.Contains(out, ":2376 ") || !strings.Contains(out, ":22 ") {
		t.Errorf("the doors are shut:\n%s", out)
	}
	dock(t, shared, "stop", "-t", "0", id)
	for _, shut := range shut {
		eventually(t, "the port shuts with its program", shut)
	}
}

// What a swarm's ingress publishes is reachable like a published port, and gone with its service.
func TestSwarmIngress(t *testing.T) {
	takesLong(t)
	ip := strings.TrimSpace(hyve(t, "ip", shared))
	dock(t, shared, "run", "--rm", "busybox", "true") // the image is there
	dock(t, shared, "swarm", "init")
	t.Cleanup(func() {
		// dockerd gives itself 15 seconds, which an emulated one that is busy does not keep.
		eventually(t, "the swarm is left", func() bool {
			out, err := try(limit, docker, "--context", "hyve-"+shared, "swarm", "leave", "--force")
			return err == nil || strings.Contains(out, "not part of a swarm")
		})
	})
	hyve(t, "scp", buildForGuest(t, "echo"), shared+":/home/docker/echo")
	dock(t, shared, "service", "create", "--name", "web", "--no-resolve-image", "--publish", "18091:80", "--publish", "18092:53/udp", "--publish", "18093:9/sctp",
		"--mount", "type=bind,source=/home/docker/echo,target=/echo", "busybox", "sh", "-c",
		"mkdir -p /www && echo swarm > /www/index.html && (/echo &) && exec httpd -f -p 80 -h /www")
	for _, address := range []string{"127.0.0.1:18091", ip + ":18091", "[::1]:18091"} {
		if text := get(t, address); text != "swarm" {
			t.Errorf("%s serves %q", address, text)
		}
	}
	shut := []func() bool{echoes(t, "udp", "127.0.0.1:18092"), echoes(t, "udp", ip+":18092")}
	eventually(t, "the status says that SCTP is not published", func() bool { return saysAlone(t, "sctp", "18093") })
	dock(t, shared, "service", "rm", "web")
	eventually(t, "SCTP is no problem any more", func() bool { return !saysAlone(t, "sctp", "18093") })
	for _, address := range []string{"127.0.0.1:18091", ip + ":18091", "[::1]:18091"} {
		eventually(t, address+" shuts with its service", func() bool { return !connects(address) })
	}
	for _, shut := range shut {
		eventually(t, "UDP shuts with its service", shut)
	}
}

// A container reaches the machine's address as the host does.
func TestMachineAddressFromInside(t *testing.T) {
	ip := strings.TrimSpace(hyve(t, "ip", shared))
	serveIn(t, shared, "18090:80", "called back")
	get(t, ip+":18090")
	for _, network := range []string{"bridge", "host"} {
		if out := dock(t, shared, "run", "--rm", "--network", network, "busybox", "wget", "-qO-", "http://"+ip+":18090/"); out != "called back\n" {
			t.Errorf("on network %s: %q", network, out)
		}
	}
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
	told := func(in string) bool {
		return strings.Contains(in, "18083") && strings.Contains(in, "held by machine "+shared)
	}
	if problems := statusOf(t, "second").Problems; !slices.ContainsFunc(problems, told) {
		t.Errorf("the second machine's status does not say who has localhost: %q", problems)
	}
	if logs := hyve(t, "logs", "--service", "supervisor", "second"); !told(logs) {
		t.Error("hyve logs does not say who has localhost")
	}
	// Where docker chooses, each has localhost.
	for machine, want := range map[string]string{shared: "a", "second": "b"} {
		id := serveIn(t, machine, "80", want)
		_, port, _ := net.SplitHostPort(strings.Fields(dock(t, machine, "port", id))[2])
		if text := get(t, "127.0.0.1:"+port); text != want {
			t.Errorf("docker's choice %s of machine %s serves %q", port, machine, text)
		}
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
