package e2e

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hyve-vm/hyve/e2e/testregistry"
	"github.com/hyve-vm/hyve/internal/pki"
)

// tlsRegistry serves a registry on loopback whose certificate is of a CA of its own, and
// returns its address as the guest sees it and the CA in PEM.
func tlsRegistry(t *testing.T) (address, ca string) {
	t.Helper()
	handler, err := testregistry.New(filepath.Join(root, ".deps", "busybox"))
	if err != nil {
		t.Fatal(err)
	}
	authority, err := pki.OpenCA(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	pair, err := authority.Server(t.TempDir(), []string{"host.docker.internal"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := tls.X509KeyPair(pair.CertPEM, pair.KeyPEM)
	if err != nil {
		t.Fatal(err)
	}
	l, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{cert}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go http.Serve(l, handler)
	_, port, _ := net.SplitHostPort(l.Addr().String())
	return "host.docker.internal:" + port, string(authority.PEM())
}

// What a host trusts, where it looks for names and what time it has reach the machine, when
// it starts and while it runs.
func TestSurroundings(t *testing.T) {
	dir := t.TempDir()
	zone, err := os.ReadFile("/usr/share/zoneinfo/Asia/Tokyo")
	if err != nil {
		t.Skip(err)
	}
	first, firstCA := tlsRegistry(t)
	second, secondCA := tlsRegistry(t)
	third, thirdCA := tlsRegistry(t)
	bundle := filepath.Join(dir, "bundle.pem")
	writeFiles(t, dir, map[string]string{"bundle.pem": firstCA})
	t.Cleanup(func() { try(limit, binary, "rm", "-f", "around") })
	ctx, cancel := context.WithTimeout(t.Context(), scaled(limit))
	defer cancel()
	cmd := command(ctx, binary, "create", "around", "--memory", "1GiB", "--cpus", processors)
	cmd.Env = append(cmd.Env, "SSL_CERT_FILE="+bundle, "TZ=Asia/Tokyo", "SSL_CERT_DIR="+filepath.Join(dir, "none"))
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("create: %v\n%s", err, out)
	}
	dock(t, "around", "pull", "-q", first+"/library/busybox")
	dock(t, "around", "tag", first+"/library/busybox", "busybox")
	if out := dock(t, "around", "run", "--rm", "-v", "/etc/localtime:/etc/localtime:ro", "busybox", "date", "+%Z"); out != "JST\n" {
		t.Errorf("the zone is %q", out)
	}
	if out := inGuest(t, "around", "cat /etc/timezone /etc/localtime"); out != "Asia/Tokyo\n"+string(zone) {
		t.Errorf("the zone is %q", out)
	}

	// The host's, as a container has them.
	want, _ := exec.Command("sh", "-c", "grep -E '^search|^domain' /etc/resolv.conf").Output()
	if out := dock(t, "around", "run", "--rm", "busybox", "cat", "/etc/resolv.conf"); len(want) > 0 != strings.Contains(out, "\nsearch ") {
		t.Errorf("the host says %q, the container %q", want, out)
	}

	// A container calls the host by host-gateway.
	back := strings.Replace(registry, "host.docker.internal", "back", 1)
	dock(t, "around", "run", "--rm", "--add-host", "back:host-gateway", "busybox", "wget", "-q", "-O", "-", back+"/v2/")

	// certs.d needs no more than the next pull.
	writeFiles(t, filepath.Join(config, "certs.d", second), map[string]string{"ca.crt": secondCA})
	t.Cleanup(func() { os.RemoveAll(filepath.Join(config, "certs.d")) })
	pulls := func(image string) func() bool {
		return func() bool {
			_, err := try(limit, docker, "--context", "hyve-around", "pull", "-q", image)
			return err == nil
		}
	}
	eventually(t, "a registry of certs.d is trusted", pulls(second+"/library/busybox"))

	// Containers live on when another CA comes, which dockerd reads only at its start, and
	// keep the ports that docker has chosen.
	dock(t, "around", "run", "-d", "--name", "survivor", "-p", "80", "busybox", "sleep", "1000000")
	port := chosenPort(t, "around", "survivor", "80/tcp")
	writeFiles(t, dir, map[string]string{"bundle.pem": firstCA + thirdCA})
	eventually(t, "another CA is trusted", pulls(third+"/library/busybox"))
	if out := dock(t, "around", "inspect", "-f", "{{.State.Running}} {{.RestartCount}}", "survivor"); out != "true 0\n" {
		t.Errorf("the container is %s", out)
	}
	if now := chosenPort(t, "around", "survivor", "80/tcp"); now != port || !connects(fmt.Sprintf("127.0.0.1:%d", now)) {
		t.Errorf("its port is %d, and was %d; on the host it answers: %t", now, port, connects(fmt.Sprintf("127.0.0.1:%d", now)))
	}
	build := t.TempDir()
	writeFiles(t, build, map[string]string{"Dockerfile": "FROM " + third + "/library/busybox\nRUN true\n"})
	dock(t, "around", "build", "-q", build)

	hyve(t, "set", "around", "from-host=none")
	eventually(t, "nothing of the host is left", func() bool {
		out := inGuest(t, "around", "cat /etc/timezone; ls /etc/docker/certs.d; grep -c search /etc/resolv.conf || true")
		return out == "Etc/UTC\n0\n"
	})
	pull := pulls(first + "/library/busybox")
	eventually(t, "the CA is trusted no more", func() bool { return !pull() })
}

// The clients of OpenSSH find in a machine what they find on a server of OpenSSH's.
func TestSSHTools(t *testing.T) {
	dir := t.TempDir()
	machine := filepath.Join(home, "machines", shared)
	host, port, err := net.SplitHostPort(statusOf(t, shared).Endpoints.SSH)
	if err != nil {
		t.Fatal(err)
	}
	options := []string{"-F", "/dev/null", "-o", "IdentityFile=" + filepath.Join(machine, "id_ed25519"), "-o", "IdentitiesOnly=yes",
		"-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-o", "LogLevel=ERROR", "-o", "Port=" + port, "-o", "User=docker"}
	writeFiles(t, dir, map[string]string{"file": strings.Repeat("0123456789", 1000)})
	file := filepath.Join(dir, "file")
	stdout(t, "scp", append(append([]string{"-O"}, options...), file, host+":legacy")...)
	stdout(t, "scp", append(append([]string{}, options...), file, host+":sftp")...)
	stdout(t, "rsync", "-a", "-e", binary+" ssh", file, shared+":synced")
	stdout(t, "rsync", "-a", "-e", binary+" ssh", file, "docker@"+shared+":named")
	if out := inGuest(t, shared, "cat legacy sftp synced named | wc -c; rm legacy sftp synced named"); strings.TrimSpace(out) != "40000" {
		t.Errorf("%s bytes arrived", out)
	}

	agent := filepath.Join(dir, "agent")
	keeper := exec.Command("ssh-agent", "-D", "-a", agent)
	if err := keeper.Start(); err != nil {
		t.Skip(err)
	}
	t.Cleanup(func() { keeper.Process.Kill(); keeper.Wait() })
	eventually(t, "the agent listens", func() bool {
		conn, err := net.Dial("unix", agent)
		if err == nil {
			conn.Close()
		}
		return err == nil
	})
	add := exec.Command("ssh-add", filepath.Join(machine, "id_ed25519"))
	add.Env = append(os.Environ(), "SSH_AUTH_SOCK="+agent)
	if out, err := add.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	const look = `test -S "$SSH_AUTH_SOCK" && stat -c %a,%U "$SSH_AUTH_SOCK"`
	ctx, cancel := context.WithTimeout(t.Context(), scaled(limit))
	defer cancel()
	for name, cmd := range map[string]*exec.Cmd{
		"ssh -A":      command(ctx, "ssh", append(append([]string{"-A"}, options...), host, look)...),
		"hyve ssh -A": command(ctx, binary, "ssh", "-A", shared, look),
	} {
		cmd.Env = append(cmd.Env, "SSH_AUTH_SOCK="+agent)
		if out, err := cmd.CombinedOutput(); err != nil || string(out) != "600,docker\n" {
			t.Errorf("%s: %v, %s", name, err, out)
		}
	}
	stdout(t, "ssh", append(append([]string{"-R", "/tmp/e2e.sock:" + agent}, options...), host, "stat -c %a,%U /tmp/e2e.sock | grep -x 600,docker")...)
	if out := inGuest(t, shared, "ls /tmp"); strings.Contains(out, "e2e.sock") || strings.Contains(out, "ssh-") {
		t.Errorf("left: %s", out)
	}
}
