package e2e

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// TestDockerOverSSH is the docker client with DOCKER_HOST=ssh://, as people have it for
// any host: what it needs to know is in ssh's configuration.
func TestDockerOverSSH(t *testing.T) {
	address := statusOf(t, shared).Endpoints.SSH
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		t.Fatal(err)
	}
	machine := filepath.Join(home, "machines", shared)
	dir := t.TempDir()
	writeFiles(t, dir, map[string]string{
		"known_hosts": fmt.Sprintf("[%s]:%s %s\n", host, port, sshKeyscan(t, address)),
		"config": fmt.Sprintf("Host %s\n  IdentityFile %s\n  IdentitiesOnly yes\n  UserKnownHostsFile %s\n  StrictHostKeyChecking yes\n",
			host, filepath.Join(machine, "id_ed25519"), filepath.Join(dir, "known_hosts")),
	})
	// ssh looks in its user's home, whatever HOME says.
	ssh, err := exec.LookPath("ssh")
	if err != nil {
		t.Fatal(err)
	}
	bin := filepath.Join(dir, "bin")
	writeFiles(t, bin, map[string]string{"ssh": fmt.Sprintf("#!/bin/sh\nexec '%s' -F '%s' \"$@\"\n", ssh, filepath.Join(dir, "config"))})
	if err := os.Chmod(filepath.Join(bin, "ssh"), 0o755); err != nil {
		t.Fatal(err)
	}

	c := client{dir: t.TempDir(), env: []string{"DOCKER_CONFIG=" + t.TempDir(), "PATH=" + bin + ":" + os.Getenv("PATH")}}
	engine := []string{"-H", fmt.Sprintf("ssh://docker@%s:%s", host, port)}
	if out := c.run(t, docker, append(engine, "run", "--rm", "busybox", "echo", "plop!")...); out != "plop!\n" {
		t.Errorf("printed %q", out)
	}
	writeFiles(t, c.dir, map[string]string{"Dockerfile": "FROM busybox\nCOPY word /word\nCMD cat /word\n", "word": "built\n"})
	t.Cleanup(func() { try(limit, docker, "--context", "hyve-"+shared, "rmi", "-f", "e2e-ssh") })
	c.run(t, docker, append(engine, "build", "-q", "-t", "e2e-ssh", ".")...)
	if out := c.run(t, docker, append(engine, "run", "--rm", "e2e-ssh")...); out != "built\n" {
		t.Errorf("printed %q", out)
	}
}
