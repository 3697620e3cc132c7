package e2e

import (
	"context"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// asMachine gives the tests hyve under the name of docker-machine, on the PATH of shells
// that they start.
func asMachine(t *testing.T) (program string, shell func(script string) string) {
	t.Helper()
	dir := t.TempDir()
	program = filepath.Join(dir, "docker-machine")
	if err := os.Symlink(binary, program); err != nil {
		t.Fatal(err)
	}
	return program, func(script string) string {
		t.Helper()
		return stdout(t, "sh", "-ec", "PATH="+dir+":$PATH; export SHELL=/bin/sh; "+script)
	}
}

// served returns the certificate that a machine's engine shows.
func served(t *testing.T, address string) *x509.Certificate {
	t.Helper()
	ca, err := os.ReadFile(filepath.Join(home, "pki", "ca.pem"))
	if err != nil {
		t.Fatal(err)
	}
	pair, err := tls.LoadX509KeyPair(filepath.Join(home, "pki", "cert.pem"), filepath.Join(home, "pki", "key.pem"))
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(ca)
	conn, err := tls.Dial("tcp", strings.TrimPrefix(address, "tcp://"), &tls.Config{RootCAs: roots, Certificates: []tls.Certificate{pair}})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	return conn.ConnectionState().PeerCertificates[0]
}

// inOrder looks for lines that follow each other in a text, with others between them.
func inOrder(t *testing.T, text string, lines ...string) {
	t.Helper()
	all := strings.Split(text, "\n")
	for _, line := range lines {
		i := slices.Index(all, line)
		if i < 0 {
			t.Errorf("no %q in its place in\n%s", line, text)
			return
		}
		all = all[i+1:]
	}
}

// What people typed in 2016 works, and the other words of docker-machine on the machine
// that it makes.
func TestDockerMachine(t *testing.T) {
	const name = "dockerhost"
	dm, sh := asMachine(t)
	t.Cleanup(func() { try(limit, binary, "rm", "-f", name) })
	machine := func(args ...string) string { t.Helper(); return stdout(t, dm, args...) }
	fails := func(code int, message string, args ...string) {
		t.Helper()
		if _, errText, got := result(t, dm, args...); got != code || !strings.Contains(errText, message) {
			t.Errorf("%s: exit status %d, %q; want %d, %q", strings.Join(args, " "), got, errText, code, message)
		}
	}

	out := machine("create", name, "--driver", "xhyve", "--xhyve-memory-size", "1024", "--xhyve-cpu-count=2", "--xhyve-qcow2",
		"--engine-registry-mirror", registry, "-engine-label", "a=b", "--tls-san", "engine.example")
	inOrder(t, out, "Running pre-create checks...", "("+name+") --xhyve-qcow2 is not used: the disk is one sparse file, which takes only what is used",
		"Creating machine...", "Waiting for machine to be running, this may take a few minutes...",
		"Detecting operating system of created instance...", "Waiting for SSH to be available...", "Detecting the provisioner...",
		"Provisioning with boot2docker...", "Copying certs to the local machine directory...", "Checking connection to Docker...",
		"Docker is up and running!",
		"To see how to connect your Docker Client to the Docker Engine running on this virtual machine, run: "+dm+" env "+name)
	if out := sh(`eval "$(docker-machine env ` + name + `)"; docker run --rm busybox echo 'plop!'; docker-machine active`); out != "plop!\n"+name+"\n" {
		t.Errorf("docker run: %q", out)
	}
	fails(1, `Docker machine "`+name+`" already exists`, "create", "-d", "xhyve", name)
	fails(3, `Error with pre-create check: "finding image`, "create", "-d", "xhyve",
		"--xhyve-boot2docker-url", "sha256:"+strings.Repeat("0", 64), "half")
	fails(1, `Docker machine "half" does not exist`, "status", "half")

	t.Run("says what there is", func(t *testing.T) { describeMachine(t, name, machine, sh) })
	t.Run("logs in", func(t *testing.T) { logIn(t, name, dm, machine) })
	t.Run("mounts", func(t *testing.T) { mountDirectory(t, name, machine) })
	t.Run("renews certificates", func(t *testing.T) { renewCertificates(t, name, machine) })
	t.Run("renews what has expired", func(t *testing.T) {
		expire(t, filepath.Join(home, "pki", "cert.pem"), filepath.Join(home, "machines", name, "cert.pem"))
		fails(1, "has expired", "env", name)
		fails(1, "docker-machine regenerate-certs [name]", "env", name)
		machine("regenerate-certs", "-f", name)
		if out := sh(`eval "$(docker-machine env ` + name + `)"; docker version -f '{{.Server.Os}}'`); out != "linux\n" {
			t.Errorf("docker version: %q", out)
		}
	})
	t.Run("says that its engine is down", func(t *testing.T) {
		inGuest(t, name, "sudo /etc/init.d/docker stop")
		const down = "the engine of this machine is not running"
		eventually(t, "the engine is said to be down", func() bool {
			return machine("ls", "-f", "{{.State}} {{.DockerVersion}} {{.Error}}", "--filter", "name="+name) == "Running Unknown "+down+"\n"
		})
		fails(1, "Unable to query docker version: "+down, "version", name)
		if out := hyve(t, "ls", "--format", "{{.Name}} {{.Engine}} {{.Error}}", "--filter", "name="+name); out != name+"  "+down+"\n" {
			t.Errorf("hyve ls: %q", out)
		}
		if out := hyve(t, "status", name); !strings.Contains(out, "hyve restart starts it") {
			t.Errorf("hyve status: %q", out)
		}
		if _, errText, code := result(t, binary, "start", name); code != 1 || !strings.Contains(errText, down) {
			t.Errorf("hyve start: %d, %s", code, errText)
		}
		// A machine that stops then has not failed.
		if _, errText, code := result(t, binary, "stop", name); code != 0 || strings.Contains(errText, "failed") {
			t.Errorf("stop: %d, %s", code, errText)
		}
		hyve(t, "start", name)
		inGuest(t, name, "sudo /etc/init.d/docker stop")
		machine("provision", name)
		eventually(t, "the engine is said to be up", func() bool {
			out, _, code := result(t, dm, "version", name)
			return code == 0 && strings.HasPrefix(out, "2")
		})
	})
	t.Run("says that its engine hangs", func(t *testing.T) {
		takesLong(t)
		inGuest(t, name, "sudo kill -STOP $(cat /var/run/docker.pid)")
		fails(1, "Unable to query docker version: ", "version", name)
		inGuest(t, name, "sudo kill -CONT $(cat /var/run/docker.pid)")
	})
	t.Run("starts and stops", func(t *testing.T) {
		inOrder(t, machine("stop", name), `Stopping "`+name+`"...`, `Machine "`+name+`" was stopped.`)
		fails(1, `Machine "`+name+`" is already stopped.`, "stop", name)
		inOrder(t, machine("start", name), `Starting "`+name+`"...`, `Machine "`+name+`" was started.`, "Waiting for SSH to be available...",
			"Detecting the provisioner...", "Started machines may have new IP addresses. You may need to re-run the `docker-machine env` command.")
		fails(1, `Machine "`+name+`" is already running.`, "start", name)
		inOrder(t, machine("upgrade", name), "Upgrading docker...")
		hyve(t, "suspend", name)
		if state := machine("status", name); state != "Saved\n" {
			t.Errorf("suspended: %s", state)
		}
		inOrder(t, machine("restart", shared), `Restarting "`+shared+`"...`, "Waiting for SSH to be available...", "Detecting the provisioner...",
			"Restarted machines may have new IP addresses. You may need to re-run the `docker-machine env` command.")
		machine("start", name)
		inOrder(t, machine("kill", name), `Killing "`+name+`"...`, `Machine "`+name+`" was killed.`)
		if state := machine("status", name); state != "Stopped\n" {
			t.Errorf("killed: %s", state)
		}
	})
	inOrder(t, machine("rm", "-y", name), "About to remove "+name, "WARNING: This action will delete both local reference and remote instance.",
		"Successfully removed "+name)
	fails(1, "does not exist", "status", name)
}

// engineOf returns where a machine's engine answers, and its version.
func engineOf(t *testing.T, name string) (url, version string) {
	t.Helper()
	url, version, _ = strings.Cut(strings.TrimSpace(hyve(t, "status", name, "--format", "{{.Endpoints.TCP}} {{.EngineVersion}}")), " ")
	return url, version
}

func readFile(t *testing.T, path string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func describeMachine(t *testing.T, name string, machine func(...string) string, sh func(string) string) {
	url, version := engineOf(t, name)
	host, _, _ := net.SplitHostPort(strings.TrimPrefix(url, "tcp://"))
	for _, test := range []struct{ args, want string }{
		{"status " + name, "Running"},
		{"url " + name, url},
		{"ip " + name, host},
		{"version " + name, version},
		{"ls --filter name=^" + name + "$ -f {{.DriverName}}:{{.State}}:{{.URL}}:{{.DockerVersion}}:{{.Active}}:{{.Error}}",
			"xhyve:Running:" + url + ":v" + version + ":-:"},
		{"ls -q --filter label=a=b --filter driver=XHYVE", name},
		{"inspect -f {{.Driver.Memory}}:{{.Driver.CPU}}:{{.Driver.IPAddress}}:{{.HostOptions.EngineOptions.Labels}} " + name, "1024:2:" + host + ":[a=b]"},
	} {
		if got := machine(strings.Fields(test.args)...); got != test.want+"\n" {
			t.Errorf("%s: %q, want %q", test.args, got, test.want)
		}
	}
	// The engine gives them in any order.
	labels := strings.Fields(dock(t, name, "info", "-f", "{{range .Labels}}{{println .}}{{end}}"))
	if slices.Sort(labels); !slices.Equal(labels, []string{"a=b", "provider=xhyve"}) {
		t.Errorf("the engine's labels: %q", labels)
	}
	if out := sh(`eval "docker $(docker-machine config ` + name + ` | tr '\n' ' ') info -f {{.Name}}"`); out != name+"\n" {
		t.Errorf("docker by the flags: %s", out)
	}
	if cert := served(t, url); !slices.Contains(cert.DNSNames, "engine.example") {
		t.Errorf("the certificate is good for %q", cert.DNSNames)
	}
	// An engine that somebody else runs may as well be one of hyve's.
	machine("create", "-d", "none", "--url", url, "adopted")
	defer machine("rm", "-y", "adopted")
	if out := sh(`eval "$(docker-machine env adopted)"; docker info -f {{.Name}}`); out != name+"\n" {
		t.Errorf("docker by the adopted engine: %s", out)
	}
	if out := machine("ls", "-f", "{{.DockerVersion}}{{.Error}}", "--filter", "name=adopted"); out != "v"+version+"\n" {
		t.Errorf("the adopted engine: %s", out)
	}
}

func logIn(t *testing.T, name, dm string, machine func(...string) string) {
	if out := machine("ssh", name, "id -un; hostname"); out != "docker\n"+name+"\n" {
		t.Errorf("ssh: %q", out)
	}
	for _, flags := range [][]string{nil, {"--native-ssh"}} {
		out, errText, code := result(t, dm, append(flags, "ssh", name, "echo out; echo err >&2; exit 7")...)
		if out != "out\n" || errText != "err\n" || code != 7 {
			t.Errorf("%v ssh: %q, %q, exit status %d", flags, out, errText, code)
		}
	}
	// In a pipeline it ends with who reads from it.
	if out := stdout(t, "sh", "-ec", dm+" ssh "+name+" yes | head -n 1"); out != "y\n" {
		t.Errorf("ssh to head: %q", out)
	}
	// What follows the name is the system's ssh's business: a port forward.
	port := freePort(t)
	ctx, cancel := context.WithTimeout(t.Context(), scaled(limit))
	defer cancel()
	forward := command(ctx, dm, "ssh", name, "-N", "-L", port+":127.0.0.1:22")
	if err := forward.Start(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "a forwarded port", func() bool {
		conn, err := net.Dial("tcp", "127.0.0.1:"+port)
		if err != nil {
			return false
		}
		defer conn.Close()
		banner := make([]byte, 4)
		n, _ := conn.Read(banner)
		return string(banner[:n]) == "SSH-"
	})
	cancel()
	forward.Wait()

	// Into a machine, on to another, and back.
	dir := filepath.Join(t.TempDir(), "tree")
	if err := os.MkdirAll(filepath.Join(dir, "below"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "below", "file"), []byte("text"), 0o644); err != nil {
		t.Fatal(err)
	}
	machine("scp", "-r", "-q", dir, name+":")
	machine("scp", "-q", "-r", name+":tree", shared+":moved")
	hyve(t, "scp", "-r", "-q", "docker@"+shared+":moved", dir+".back")
	if out, err := exec.Command("diff", "-r", dir, dir+".back").CombinedOutput(); err != nil {
		t.Errorf("%v: %s", err, out)
	}
	if _, err := exec.LookPath("rsync"); err == nil {
		machine("scp", "-d", filepath.Join(dir, "below", "file"), name+":differences")
		if out := machine("ssh", name, "cat differences"); out != "text" {
			t.Errorf("scp -d carried %q", out)
		}
	}
	if _, _, code := result(t, dm, "scp", "-q", name+":nosuch", dir); code == 0 {
		t.Error("scp of nothing succeeds")
	}
	if files, _ := filepath.Glob(filepath.Join(os.TempDir(), "hyve-scp-*")); len(files) > 0 {
		t.Errorf("left over: %q", files)
	}
}

// The system's sshfs, where there is one.
func mountDirectory(t *testing.T, name string, machine func(...string) string) {
	for _, program := range []string{"sshfs", "fusermount"} {
		if _, err := exec.LookPath(program); err != nil {
			t.Skip(err)
		}
	}
	dir := filepath.Join(t.TempDir(), "with, comma")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	machine("mount", name+":/etc", dir)
	mounted := true
	defer func() {
		if mounted {
			try(limit, "fusermount", "-u", "-z", dir)
		}
	}()
	if text := readFile(t, filepath.Join(dir, "hostname")); text != name+"\n" {
		t.Errorf("mounted: %q", text)
	}
	machine("mount", "-u", name+":/etc", dir)
	mounted = false
	if entries, err := os.ReadDir(dir); err != nil || len(entries) > 0 {
		t.Errorf("still mounted: %v, %v", entries, err)
	}
}

// freePort returns a port of the host's loopback that nobody listens on.
func freePort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, port, _ := net.SplitHostPort(l.Addr().String())
	return port
}

// expire puts a client's certificate of the user's own CA at paths whose time was over
// yesterday.
func expire(t *testing.T, paths ...string) {
	t.Helper()
	pair := func(cert, key string) tls.Certificate {
		p, err := tls.LoadX509KeyPair(filepath.Join(home, "pki", cert), filepath.Join(home, "pki", key))
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	ca, client := pair("ca.pem", "ca-key.pem"), pair("cert.pem", "key.pem")
	old := *client.Leaf
	old.NotBefore, old.NotAfter = time.Now().AddDate(-1, 0, 0), time.Now().AddDate(0, 0, -1)
	der, err := x509.CreateCertificate(rand.Reader, &old, ca.Leaf, client.Leaf.PublicKey, ca.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range paths {
		if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

func renewCertificates(t *testing.T, name string, machine func(...string) string) {
	url, _ := engineOf(t, name)
	dock(t, name, "run", "-d", "--name", "runs", "busybox", "sleep", "1000")
	began := dock(t, name, "inspect", "-f", "{{.State.StartedAt}}", "runs")
	first := served(t, url)
	client := readFile(t, filepath.Join(home, "pki", "cert.pem"))
	inOrder(t, machine("regenerate-certs", "-f", name), "Regenerating TLS certificates", "Waiting for SSH to be available...",
		"Detecting the provisioner...", "Copying certs to the local machine directory...", "Copying certs to the remote machine...",
		"Setting Docker configuration on the remote daemon...")
	second := served(t, url)
	if second.PublicKey.(*ecdsa.PublicKey).Equal(first.PublicKey) {
		t.Error("the engine shows its old key")
	}
	inOrder(t, machine("regenerate-certs", "--client-certs", "--force", name), "Regenerating TLS certificates", "Regenerating local certificates")
	if served(t, url).PublicKey.(*ecdsa.PublicKey).Equal(second.PublicKey) {
		t.Error("the engine shows its old key")
	}
	if readFile(t, filepath.Join(home, "pki", "cert.pem")) == client {
		t.Error("the client has its old certificate")
	}
	for _, dir := range []string{name, shared} {
		if readFile(t, filepath.Join(home, "machines", dir, "cert.pem")) != readFile(t, filepath.Join(home, "pki", "cert.pem")) {
			t.Errorf("docker clients of %s have the old certificate", dir)
		}
		machine("config", dir) // reaches the engine
	}
	machine("provision", name)
	if now := dock(t, name, "inspect", "-f", "{{.State.StartedAt}}", "runs"); now != began {
		t.Error("the container has not run on")
	}
	dock(t, name, "rm", "-f", "runs")
}
