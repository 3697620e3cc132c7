package e2e

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/creack/pty"
	"github.com/hyve-vm/hyve/internal/network"
	"github.com/hyve-vm/hyve/internal/pki"
	"golang.org/x/net/dns/dnsmessage"
)

func TestRun(t *testing.T) {
	if out := dock(t, shared, "run", "--rm", "busybox", "echo", "plop!"); out != "plop!\n" {
		t.Errorf("printed %q", out)
	}
	if _, _, code := result(t, docker, "--context", "hyve-"+shared, "run", "--rm", "busybox", "sh", "-c", "exit 7"); code != 7 {
		t.Errorf("exit status %d, want 7", code)
	}
}

func TestEnv(t *testing.T) {
	script := fmt.Sprintf(`eval "$(%s env --shell bash %s)"; %s run --rm busybox echo 'plop!'; env | grep ^DOCKER_`, binary, shared, docker)
	out := stdout(t, "sh", "-c", script)
	if !strings.HasPrefix(out, "plop!\n") || !strings.Contains(out, "DOCKER_TLS_VERIFY=1") || !strings.Contains(out, "DOCKER_MACHINE_NAME="+shared) {
		t.Errorf("printed %s", out)
	}
}

func TestUse(t *testing.T) {
	hyve(t, "use", shared)
	t.Cleanup(func() { stdout(t, docker, "context", "use", "default") })
	if out := stdout(t, docker, "run", "--rm", "busybox", "echo", "plop!"); out != "plop!\n" {
		t.Errorf("printed %q", out)
	}
}

func TestHyveDocker(t *testing.T) {
	if out := hyve(t, "docker", "-m", shared, "run", "--rm", "busybox", "echo", "plop!"); out != "plop!\n" {
		t.Errorf("printed %q", out)
	}
}

// TestGuestsOwnClient runs where the host has no docker client.
func TestGuestsOwnClient(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), scaled(limit))
	defer cancel()
	cmd := command(ctx, binary, "docker", "-m", shared, "run", "--rm", "busybox", "echo", "it's a plop!")
	cmd.Env = append(cmd.Env, "PATH=/nowhere")
	out, err := cmd.Output()
	if err != nil || string(out) != "it's a plop!\n" {
		t.Errorf("printed %q, %v", out, err)
	}
}

// No container can write to the program that starts it, which need not guard itself then.
func TestRuntimeIsReadOnly(t *testing.T) {
	if out := inGuest(t, shared, "grep ' /usr/bin/crun ' /proc/mounts"); !strings.Contains(out, " erofs ro,") {
		t.Errorf("it is mounted as %q", out)
	}
}

// A container cannot reach the engine's front without a client certificate.
func TestEngineIsShutToContainers(t *testing.T) {
	out, _, code := result(t, docker, "--context", "hyve-"+shared, "run", "--rm", "busybox", "sh", "-c",
		`ip=$(ip route | sed -n 's/default via \([^ ]*\).*/\1/p'); printf 'GET /version HTTP/1.0\r\n\r\n' | timeout 20 nc $ip 2376; echo; timeout 20 nc -z $ip 2375 && echo open; echo "tried $ip"`)
	if code != 0 || strings.Contains(out, "ApiVersion") || strings.Contains(out, "open") || !strings.Contains(out, "tried 172.") {
		t.Errorf("it answers (%d): %s", code, out)
	}
	ip := strings.TrimSpace(hyve(t, "ip", shared))
	// Plain HTTP is hung up on, or gets the 400 of Go's TLS servers.
	if response, err := http.Get("http://" + net.JoinHostPort(ip, "2376") + "/version"); err == nil {
		response.Body.Close()
		if response.StatusCode != http.StatusBadRequest {
			t.Errorf("plain HTTP gets %s", response.Status)
		}
	} else if !errors.Is(err, io.EOF) && !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("plain HTTP: %v", err)
	}
	ca, err := pki.OpenCA(filepath.Join(home, "pki"))
	if err != nil {
		t.Fatal(err)
	}
	stranger, err := pki.OpenCA(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		certificate string
		client      func() (pki.Pair, error) // what the client shows
		refusal     string
	}{
		{"its own", ca.Client, ""},
		{"no", func() (pki.Pair, error) { return pki.Pair{}, nil }, "certificate required"},
		{"another CA's", stranger.Client, "unknown certificate authority"},
	} {
		config := ca.ClientConfig("") // trusts the engine; only what it shows differs
		config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			pair, err := tt.client()
			return &pair.Certificate, err
		}
		client := http.Client{Transport: &http.Transport{TLSClientConfig: config, DisableKeepAlives: true}, Timeout: scaled(limit)}
		response, err := client.Get("https://" + net.JoinHostPort(ip, "2376") + "/version")
		switch {
		case tt.refusal != "" && (err == nil || !strings.Contains(err.Error(), tt.refusal)):
			t.Errorf("with %s certificate: %v, want %q", tt.certificate, err, tt.refusal)
		case tt.refusal == "" && (err != nil || response.StatusCode != http.StatusOK):
			t.Errorf("with %s certificate: %v, %v", tt.certificate, response, err)
		}
		if err == nil {
			response.Body.Close()
		}
	}
}

// The host's client builds with what it has, the guest's with BuildKit: the other
// builder knows no mounts.
func TestBuild(t *testing.T) {
	dir := t.TempDir()
	dockerfile := "FROM busybox\nRUN echo built > /result\nCOPY file /file\nCMD cat /result /file\n"
	if err := os.WriteFile(filepath.Join(dir, "Dockerfile"), []byte(dockerfile), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "file"), []byte("copied\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	dock(t, shared, "build", "-q", "-t", "e2e-build", dir)
	if out := dock(t, shared, "run", "--rm", "e2e-build"); out != "built\ncopied\n" {
		t.Errorf("printed %q", out)
	}
	// BuildKit's first build takes its time in emulation.
	out, err := try(5*time.Minute, binary, "ssh", shared, "--", `printf '%s\n' 'FROM busybox' 'RUN --mount=type=cache,target=/kept grep " /kept " /proc/mounts > /mounts' |
		docker build -q -t e2e-buildkit - && docker run --rm e2e-buildkit cat /mounts`)
	if err != nil || !strings.Contains(out, " /kept ") {
		t.Errorf("the build saw no cache mounted: %q, %v", out, err)
	}
}

func TestExecOnATerminal(t *testing.T) {
	id := strings.TrimSpace(dock(t, shared, "run", "-d", "busybox", "sleep", "600"))
	t.Cleanup(func() { dock(t, shared, "rm", "-f", id) })
	ctx, cancel := context.WithTimeout(t.Context(), scaled(limit))
	defer cancel()
	cmd := command(ctx, docker, "--context", "hyve-"+shared, "exec", "-it", id, "sh")
	terminal, err := pty.StartWithSize(cmd, &pty.Winsize{Rows: 33, Cols: 77})
	if err != nil {
		t.Fatal(err)
	}
	defer terminal.Close()
	go fmt.Fprint(terminal, "tty; stty size; echo do''ne; exit 5\n")
	var out bytes.Buffer
	io.Copy(&out, terminal) // ends with EIO when the other end is closed
	for _, want := range []string{"/dev/pts/", "33 77", "done"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("%q is missing in %q", want, out.String())
		}
	}
	if err := cmd.Wait(); cmd.ProcessState.ExitCode() != 5 {
		t.Errorf("exec ends with %v, want status 5", err)
	}
}

// Attach and run -i hand over their input to its end, and then the output.
func TestAttachedInput(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), scaled(limit))
	defer cancel()
	cmd := command(ctx, docker, "--context", "hyve-"+shared, "run", "--rm", "-i", "busybox", "sh", "-c", "wc -c; echo end")
	cmd.Stdin = io.LimitReader(zeros{}, 5<<20)
	out, err := cmd.Output()
	if err != nil || strings.Join(strings.Fields(string(out)), " ") != "5242880 end" {
		t.Errorf("printed %q, %v", out, err)
	}
	id := strings.TrimSpace(dock(t, shared, "create", "-i", "busybox", "cat"))
	t.Cleanup(func() { dock(t, shared, "rm", "-f", id) })
	dock(t, shared, "start", id)
	cmd = command(ctx, docker, "--context", "hyve-"+shared, "attach", "--no-stdin=false", id)
	cmd.Stdin = strings.NewReader("hello\n")
	if out, err := cmd.Output(); err != nil || string(out) != "hello\n" {
		t.Errorf("attach printed %q, %v", out, err)
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

func TestCopyAndLoad(t *testing.T) {
	const size = 100 << 20
	dir := t.TempDir()
	data := make([]byte, size)
	rand.Read(data)
	if err := os.WriteFile(filepath.Join(dir, "data"), data, 0o644); err != nil {
		t.Fatal(err)
	}
	id := strings.TrimSpace(dock(t, shared, "create", "busybox", "true"))
	t.Cleanup(func() { dock(t, shared, "rm", "-f", id) })
	dock(t, shared, "cp", filepath.Join(dir, "data"), id+":/data")
	dock(t, shared, "cp", id+":/data", filepath.Join(dir, "back"))
	if back, err := os.ReadFile(filepath.Join(dir, "back")); err != nil || !bytes.Equal(back, data) {
		t.Errorf("%d bytes came back, %v", len(back), err)
	}
	dock(t, shared, "commit", id, "e2e-big")
	dock(t, shared, "save", "-o", filepath.Join(dir, "image.tar"), "e2e-big")
	dock(t, shared, "rmi", "e2e-big")
	dock(t, shared, "load", "-i", filepath.Join(dir, "image.tar"))
	if out := dock(t, shared, "run", "--rm", "e2e-big", "wc", "-c", "/data"); !strings.HasPrefix(out, fmt.Sprint(size)) {
		t.Errorf("the loaded image holds %s", out)
	}
	dock(t, shared, "rmi", "e2e-big")
}

func TestFollowedLogs(t *testing.T) {
	id := strings.TrimSpace(dock(t, shared, "run", "-d", "busybox", "sh", "-c", "echo one; sleep 2; echo two"))
	t.Cleanup(func() { dock(t, shared, "rm", "-f", id) })
	if out := dock(t, shared, "logs", "-f", id); out != "one\ntwo\n" {
		t.Errorf("printed %q", out)
	}
}

// Docker's networks have the card's MTU.
func TestHostsNames(t *testing.T) {
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, "from the host") })}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	go server.Serve(l)
	defer server.Close()
	url := fmt.Sprintf("http://host.docker.internal:%d/", l.Addr().(*net.TCPAddr).Port)
	dock(t, shared, "network", "create", "e2e-net")
	t.Cleanup(func() { dock(t, shared, "network", "rm", "e2e-net") })
	want := fmt.Sprintf("%d\nfrom the host", network.DefaultMTU)
	for _, name := range []string{"bridge", "e2e-net"} {
		out := dock(t, shared, "run", "--rm", "--network", name, "busybox", "sh", "-c", "cat /sys/class/net/eth0/mtu; wget -qO- "+url)
		if out != want {
			t.Errorf("in network %s: got %q, want %q", name, out, want)
		}
	}
	dock(t, shared, "run", "--rm", "busybox", "nslookup", "-type=a", "gateway.docker.internal")
}

// Containers ask whom the host asks, while a machine runs and after it was frozen.
func TestNamesFollowTheHost(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("only root can give a process a resolv.conf of its own")
	}
	answer := map[string]string{"127.0.53.1": "192.0.2.1", "127.0.53.2": "192.0.2.2"}
	for server, address := range answer {
		serveName(t, server, "intranet.example.", address)
	}
	conf := filepath.Join(t.TempDir(), "resolv.conf")
	ask := func(server string) {
		t.Helper()
		if err := os.WriteFile(conf, []byte("nameserver "+server+"\n"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	hyveThere := func(args ...string) {
		t.Helper()
		stdout(t, "unshare", append([]string{"--mount", "sh", "-c", `mount --bind "$0" /etc/resolv.conf && exec "$@"`, conf, binary}, args...)...)
	}
	expect := func(when, server string) {
		t.Helper()
		out := dock(t, "resolving", "run", "--rm", "busybox", "nslookup", "-type=a", "intranet.example")
		if !strings.Contains(out, answer[server]) {
			t.Errorf("%s: %s", when, out)
		}
	}
	ask("127.0.53.1")
	t.Cleanup(func() { try(time.Minute, binary, "rm", "-f", "resolving") })
	hyveThere("create", "resolving", "--registry-mirror", registry, "--memory", "1GiB", "--cpus", processors)
	expect("at first", "127.0.53.1")
	ask("127.0.53.2")
	expect("after a change", "127.0.53.2")
	needsFreezing(t)
	hyve(t, "stop", "resolving")
	ask("127.0.53.1")
	hyveThere("start", "resolving")
	thaws(t, "resolving")
	expect("after a change while it was frozen", "127.0.53.1")
}

// serveName is a name server of the host's network, which knows one name.
func serveName(t *testing.T, server, name, address string) {
	t.Helper()
	conn, err := net.ListenPacket("udp", server+":53")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	go func() {
		buf := make([]byte, 512)
		for {
			n, from, err := conn.ReadFrom(buf)
			if err != nil {
				return
			}
			var m dnsmessage.Message
			if m.Unpack(buf[:n]) != nil || len(m.Questions) != 1 {
				continue
			}
			q := m.Questions[0]
			m.Response, m.Additionals = true, nil
			switch {
			case q.Name.String() != name:
				m.RCode = dnsmessage.RCodeNameError
			case q.Type == dnsmessage.TypeA:
				m.Answers = []dnsmessage.Resource{{
					Header: dnsmessage.ResourceHeader{Name: q.Name, Class: q.Class, TTL: 60},
					Body:   &dnsmessage.AResource{A: netip.MustParseAddr(address).As4()},
				}}
			}
			if answer, err := m.Pack(); err == nil {
				conn.WriteTo(answer, from)
			}
		}
	}()
}

func TestTwentyAtOnce(t *testing.T) {
	var group sync.WaitGroup
	for i := range 20 {
		group.Go(func() {
			out, err := try(5*time.Minute, docker, "--context", "hyve-"+shared, "run", "--rm", "busybox", "echo", fmt.Sprint(i))
			if err != nil || out != fmt.Sprintln(i) {
				t.Errorf("container %d: %q, %v", i, out, err)
			}
		})
	}
	group.Wait()
}

func TestSSH(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), scaled(limit))
	defer cancel()
	cmd := command(ctx, binary, "ssh", shared, "--", "cat; echo err >&2; exit 9")
	cmd.Stdin = strings.NewReader("in\n")
	var errText strings.Builder
	cmd.Stderr = &errText
	out, err := cmd.Output()
	if code := err.(*exec.ExitError).ExitCode(); code != 9 || string(out) != "in\n" || errText.String() != "err\n" {
		t.Errorf("exit status %d, stdout %q, stderr %q", code, out, errText.String())
	}
	if out := hyve(t, "ssh", shared, "--", "id -un; hostname; sudo id -u"); out != "docker\n"+shared+"\n0\n" {
		t.Errorf("printed %q", out)
	}
}
