package pki

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/sys/unix"
)

var (
	names     = []string{"dev", "localhost"}
	addresses = []netip.Addr{netip.MustParseAddr("127.18.3.4"), netip.MustParseAddr("127.0.0.1")}
)

// The tests' program is also the second process that some of them need.
func TestMain(m *testing.M) {
	dir := os.Getenv("PKI_TEST_OPEN")
	if dir == "" {
		os.Exit(m.Run())
	}
	if os.Getenv("PKI_TEST_FULL") != "" {
		// No file may grow: what a full disk does, without one.
		unix.Setrlimit(unix.RLIMIT_FSIZE, &unix.Rlimit{})
	}
	ca, err := OpenCA(dir)
	if err == nil {
		_, err = ca.Client()
	}
	if err == nil {
		_, err = ca.SSHKey()
	}
	if err != nil {
		io.WriteString(os.Stderr, err.Error())
		os.Exit(1)
	}
	os.Stdout.Write(ca.PEM())
}

func openElsewhere(dir string, env ...string) *exec.Cmd {
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), append(env, "PKI_TEST_OPEN="+dir)...)
	return cmd
}

func open(t *testing.T, dir string) *CA {
	t.Helper()
	ca, err := OpenCA(dir)
	if err != nil {
		t.Fatal(err)
	}
	return ca
}

func client(t *testing.T, ca *CA) Pair {
	t.Helper()
	pair, err := ca.Client()
	if err != nil {
		t.Fatal(err)
	}
	return pair
}

func server(t *testing.T, ca *CA, dir string) Pair {
	t.Helper()
	pair, err := ca.Server(dir, names, addresses)
	if err != nil {
		t.Fatal(err)
	}
	return pair
}

func read(t *testing.T, path ...string) []byte {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(path...))
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func write(t *testing.T, data []byte, path ...string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(path...), data, 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestWhatIsThereIsKept(t *testing.T) {
	dir, machine := filepath.Join(t.TempDir(), "a", "pki"), t.TempDir()
	ca := open(t, dir)
	first, firstServer := client(t, ca), server(t, ca, machine)
	key, err := ca.SSHKey()
	if err != nil {
		t.Fatal(err)
	}

	again := open(t, dir)
	if !bytes.Equal(ca.PEM(), again.PEM()) {
		t.Error("another CA")
	}
	if !bytes.Equal(client(t, again).CertPEM, first.CertPEM) {
		t.Error("another client certificate")
	}
	if !bytes.Equal(server(t, again, machine).CertPEM, firstServer.CertPEM) {
		t.Error("another server certificate")
	}
	if sameKey, err := again.SSHKey(); err != nil || !bytes.Equal(sameKey.PEM, key.PEM) {
		t.Errorf("another SSH key, error %v", err)
	}
	changed, err := again.Server(machine, []string{"other"}, nil)
	if err != nil || changed.Leaf.DNSNames[0] != "other" || len(changed.Leaf.IPAddresses) != 0 {
		t.Errorf("after a change of names: %v, error %v", changed.Leaf.DNSNames, err)
	}
	if !bytes.Equal(changed.KeyPEM, firstServer.KeyPEM) {
		t.Error("a new certificate changed the key: readers in between see them apart")
	}
}

func TestPermissions(t *testing.T) {
	dir, machine := t.TempDir(), t.TempDir()
	os.Chmod(dir, 0o755)
	ca := open(t, dir)
	if err := ca.Export(machine); err != nil {
		t.Fatal(err)
	}
	server(t, ca, machine)
	secret := []string{dir + "/" + caKeyFile, dir + "/" + keyFile, dir + "/" + sshKeyFile,
		machine + "/key.pem", machine + "/id_ed25519", machine + "/server-key.pem"}
	check := func() {
		t.Helper()
		for _, path := range append(secret, dir, machine) {
			info, err := os.Stat(path)
			if err != nil {
				t.Fatal(err)
			}
			if info.Mode().Perm()&0o077 != 0 {
				t.Errorf("%s: %v", path, info.Mode())
			}
		}
	}
	check()
	for _, path := range secret {
		os.Chmod(path, 0o644)
	}
	server(t, open(t, dir), machine)
	if err := ca.Export(machine); err != nil {
		t.Fatal(err)
	}
	check()
}

func TestDamagedCAIsRefused(t *testing.T) {
	other := t.TempDir()
	open(t, other)
	for name, damage := range map[string]func(dir string){
		"empty certificate": func(dir string) { write(t, nil, dir, caFile) },
		"certificate's PEM": func(dir string) { write(t, []byte("-----BEGIN CERTIFICATE-----\nAAAA\n"), dir, caFile) },
		"certificate's DER": func(dir string) {
			write(t, bytes.Replace(read(t, dir, caFile), []byte("M"), []byte("A"), 1), dir, caFile)
		},
		"empty key":             func(dir string) { write(t, nil, dir, caKeyFile) },
		"truncated key":         func(dir string) { write(t, read(t, dir, caKeyFile)[:90], dir, caKeyFile) },
		"no key":                func(dir string) { os.Remove(filepath.Join(dir, caKeyFile)) },
		"another CA's key":      func(dir string) { write(t, read(t, other, caKeyFile), dir, caKeyFile) },
		"a leaf as certificate": func(dir string) { client(t, open(t, dir)); write(t, read(t, dir, certFile), dir, caFile) },
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			open(t, dir)
			damage(dir)
			before, _ := os.ReadFile(filepath.Join(dir, caFile))
			beforeKey, _ := os.ReadFile(filepath.Join(dir, caKeyFile))
			_, err := OpenCA(dir)
			var hinted interface{ Hint() string }
			if !errors.As(err, &hinted) || !strings.Contains(hinted.Hint(), dir) || !strings.Contains(err.Error(), dir) {
				t.Fatalf("error %v, want one that names the directory and the way out", err)
			}
			after, _ := os.ReadFile(filepath.Join(dir, caFile))
			afterKey, _ := os.ReadFile(filepath.Join(dir, caKeyFile))
			if !bytes.Equal(before, after) || !bytes.Equal(beforeKey, afterKey) {
				t.Error("the damaged CA was changed")
			}
		})
	}
}

func TestInterruptedCAIsFinished(t *testing.T) {
	dir := t.TempDir()
	key := open(t, dir).key
	os.Remove(filepath.Join(dir, caFile))
	if again := open(t, dir); !again.key.Equal(key) {
		t.Error("the key of an interrupted start was thrown away")
	}
}

func TestDamagedLeavesAreMadeAgain(t *testing.T) {
	for name, damage := range map[string]func(t *testing.T, dir string){
		"empty certificate": func(t *testing.T, dir string) { write(t, nil, dir, certFile) },
		"no certificate":    func(t *testing.T, dir string) { os.Remove(filepath.Join(dir, certFile)) },
		"damaged key":       func(t *testing.T, dir string) { write(t, []byte("x"), dir, keyFile) },
		"no key":            func(t *testing.T, dir string) { os.Remove(filepath.Join(dir, keyFile)) },
		"another key":       func(t *testing.T, dir string) { write(t, read(t, dir, caKeyFile), dir, keyFile) },
		"a server's":        func(t *testing.T, dir string) { write(t, server(t, open(t, dir), dir).CertPEM, dir, certFile) },
		"another CA's": func(t *testing.T, dir string) {
			os.Remove(filepath.Join(dir, caFile))
			os.Remove(filepath.Join(dir, caKeyFile))
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			client(t, open(t, dir))
			damage(t, dir)
			ca := open(t, dir)
			pair := client(t, ca)
			verify(t, ca, pair, x509.VerifyOptions{KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}})
			if onDisk, err := tls.LoadX509KeyPair(filepath.Join(dir, certFile), filepath.Join(dir, keyFile)); err != nil {
				t.Error(err)
			} else if !onDisk.Leaf.Equal(pair.Leaf) {
				t.Error("the pair on disk is another one")
			}
		})
	}
}

func verify(t *testing.T, ca *CA, pair Pair, options x509.VerifyOptions) {
	t.Helper()
	options.Roots = x509.NewCertPool()
	options.Roots.AppendCertsFromPEM(ca.PEM())
	if _, err := pair.Leaf.Verify(options); err != nil {
		t.Errorf("verifying the certificate: %v", err)
	}
}

func TestServerNames(t *testing.T) {
	ca := open(t, t.TempDir())
	pair := server(t, ca, t.TempDir())
	for _, host := range []string{"dev", "localhost", "127.18.3.4", "127.0.0.1"} {
		verify(t, ca, pair, x509.VerifyOptions{DNSName: host})
	}
	if pair.Leaf.VerifyHostname("127.18.3.5") == nil || pair.Leaf.VerifyHostname("other") == nil {
		t.Error("the certificate is good for names it was not made for")
	}
	odd, err := ca.Server(t.TempDir(), []string{"10.1.2.3"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	verify(t, ca, odd, x509.VerifyOptions{DNSName: "10.1.2.3"})
	for _, bad := range [][]string{nil, {"ünicode"}} {
		if _, err := ca.Server(t.TempDir(), bad, nil); err == nil {
			t.Errorf("names %q were accepted", bad)
		}
	}
}

func TestRenewal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const day = 24 * time.Hour
		dir := t.TempDir()
		ca := open(t, dir)
		first := client(t, ca)
		if lag := time.Since(first.Leaf.NotBefore); lag < day {
			t.Errorf("good since %v, want a day", lag)
		}
		time.Sleep(240 * day)
		if !client(t, ca).Leaf.Equal(first.Leaf) {
			t.Error("renewed too early")
		}
		time.Sleep(10 * day)
		second := client(t, open(t, dir))
		if second.Leaf.Equal(first.Leaf) {
			t.Error("not renewed in the last third")
		}

		// A new CA certificate must be good for leaves of the old one and back.
		time.Sleep(8 * 365 * day)
		renewed := open(t, dir)
		if bytes.Equal(renewed.PEM(), ca.PEM()) {
			t.Fatal("the CA was not renewed")
		}
		verify(t, ca, client(t, renewed), x509.VerifyOptions{KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}})
		verify(t, renewed, client(t, renewed), x509.VerifyOptions{KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}})
	})
}

func TestNeedsRenewal(t *testing.T) {
	begin := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	cert := &x509.Certificate{NotBefore: begin, NotAfter: begin.Add(300 * time.Hour)}
	for hours, want := range map[time.Duration]bool{-1: true, 0: false, 200: false, 201: true, 301: true} {
		if got := NeedsRenewal(cert, begin.Add(hours*time.Hour)); got != want {
			t.Errorf("after %d of 300 hours: %v", hours, got)
		}
	}
}

func TestProcessesAtOnceMakeOneCA(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "pki")
	var wait sync.WaitGroup
	outputs := make([]string, 6)
	for i := range outputs {
		wait.Go(func() {
			output, err := openElsewhere(dir).CombinedOutput()
			if err != nil {
				t.Errorf("%v: %s", err, output)
			}
			outputs[i] = string(output)
		})
	}
	wait.Wait()
	for _, output := range outputs {
		if output != string(read(t, dir, caFile)) {
			t.Errorf("a process got another CA:\n%s", output)
		}
	}
	if _, err := tls.LoadX509KeyPair(filepath.Join(dir, certFile), filepath.Join(dir, keyFile)); err != nil {
		t.Error(err)
	}
}

func TestFullDisk(t *testing.T) {
	dir := t.TempDir()
	output, err := openElsewhere(dir, "PKI_TEST_FULL=1").CombinedOutput()
	if err == nil || !strings.Contains(string(output), dir) {
		t.Fatalf("error %v: %s", err, output)
	}
	entries, _ := os.ReadDir(dir)
	for _, entry := range entries {
		if entry.Name() != ".lock" {
			t.Errorf("%s was left behind", entry.Name())
		}
	}

	ca := open(t, dir)
	before := client(t, ca)
	os.Remove(filepath.Join(dir, certFile))
	if output, err := openElsewhere(dir, "PKI_TEST_FULL=1").CombinedOutput(); err == nil {
		t.Fatalf("no error: %s", output)
	}
	if after := client(t, open(t, dir)); !bytes.Equal(after.KeyPEM, before.KeyPEM) {
		t.Error("a full disk cost the key")
	}
}

// listen serves TLS as a machine's engine does.
func listen(t *testing.T, ca *CA) net.Listener {
	t.Helper()
	pair := server(t, ca, t.TempDir())
	clients := x509.NewCertPool()
	clients.AppendCertsFromPEM(ca.PEM())
	listener, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{
		Certificates: []tls.Certificate{pair.Certificate},
		ClientAuth:   tls.RequireAndVerifyClientCert,
		ClientCAs:    clients,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close() })
	return listener
}

// The docker CLI itself must accept the machine and be accepted, with the
// variables that hyve env prints.
func TestDockerCLI(t *testing.T) {
	program, err := exec.LookPath("docker")
	if err != nil {
		t.Skip(err)
	}
	ca, machine := open(t, t.TempDir()), t.TempDir()
	if err := ca.Export(machine); err != nil {
		t.Fatal(err)
	}
	listener := listen(t, ca)
	go http.Serve(listener, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Api-Version", "1.45")
		io.WriteString(w, `{"Version":"26.1.5","ApiVersion":"1.45"}`)
	}))
	cmd := exec.Command(program, "version", "--format", "{{.Server.Version}}")
	cmd.Env = []string{"DOCKER_CONFIG=" + t.TempDir(), "DOCKER_TLS_VERIFY=1",
		"DOCKER_HOST=tcp://" + listener.Addr().String(), "DOCKER_CERT_PATH=" + machine}
	if output, err := cmd.CombinedOutput(); err != nil || string(output) != "26.1.5\n" {
		t.Errorf("docker version: %v: %s", err, output)
	}
}

func TestClientConfig(t *testing.T) {
	dir := t.TempDir()
	ca := open(t, dir)
	listener := listen(t, ca)
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go func() { io.Copy(conn, conn); conn.Close() }()
		}
	}()
	dial := func(config *tls.Config) error {
		dialer := tls.Dialer{Config: config, NetDialer: &net.Dialer{Timeout: 5 * time.Second}}
		conn, err := dialer.DialContext(context.Background(), "tcp", listener.Addr().String())
		if err != nil {
			return err
		}
		defer conn.Close()
		io.WriteString(conn, "x")
		_, err = io.ReadFull(conn, make([]byte, 1))
		return err
	}
	config := ca.ClientConfig("dev")
	if err := dial(config); err != nil {
		t.Error(err)
	}
	os.Remove(filepath.Join(dir, certFile))
	if err := dial(config); err != nil {
		t.Errorf("after the certificate went: %v", err)
	}
	if dial(ca.ClientConfig("other")) == nil {
		t.Error("a server of another name was accepted")
	}
	stranger := open(t, t.TempDir())
	config.GetClientCertificate = stranger.ClientConfig("dev").GetClientCertificate
	if dial(config) == nil {
		t.Error("another CA's client was accepted")
	}
	if dial(stranger.ClientConfig("dev")) == nil {
		t.Error("another CA's server was accepted")
	}
}

func TestSSHKey(t *testing.T) {
	path := filepath.Join(t.TempDir(), "server", "ssh_host_ed25519_key")
	key, err := OpenSSHKey(path)
	if err != nil {
		t.Fatal(err)
	}
	if parsed, _, _, _, err := ssh.ParseAuthorizedKey([]byte(key.Public())); err != nil || !bytes.Equal(parsed.Marshal(), key.Signer.PublicKey().Marshal()) {
		t.Errorf("public key %q: %v", key.Public(), err)
	}
	if keygen, err := exec.LookPath("ssh-keygen"); err != nil {
		t.Log("ssh-keygen is not installed: OpenSSH's own reading is not tested")
	} else if output, err := exec.Command(keygen, "-y", "-f", path).CombinedOutput(); err != nil || !strings.HasPrefix(string(output), key.Public()) {
		t.Errorf("ssh-keygen: %v: %s", err, output)
	}
	if public := string(read(t, path+".pub")); public != key.Public()+" hyve\n" {
		t.Errorf("the .pub file holds %q", public)
	}
	os.Remove(path + ".pub")
	if again, err := OpenSSHKey(path); err != nil || again.Public() != key.Public() {
		t.Errorf("opened again: %v", err)
	}
	read(t, path+".pub")

	write(t, key.PEM[:60], path)
	_, err = OpenSSHKey(path)
	var hinted interface{ Hint() string }
	if !errors.As(err, &hinted) || !strings.Contains(err.Error(), path) {
		t.Errorf("damaged: %v", err)
	}
	if got := read(t, path); !bytes.Equal(got, key.PEM[:60]) {
		t.Error("a damaged key was overwritten")
	}
}

func TestExport(t *testing.T) {
	dir, machine := t.TempDir(), filepath.Join(t.TempDir(), "machine")
	ca := open(t, dir)
	if err := ca.Export(machine); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"ca.pem", "cert.pem", "key.pem", "id_ed25519", "id_ed25519.pub"} {
		if !bytes.Equal(read(t, machine, name), read(t, dir, name)) {
			t.Errorf("%s differs", name)
		}
		write(t, []byte("old"), machine, name)
	}
	if err := ca.Export(machine); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(read(t, machine, "cert.pem"), read(t, dir, certFile)) {
		t.Error("an old certificate stayed")
	}
	// Another CA's engine is trusted beside the own one's, for this machine alone.
	if err := ca.Export(machine, "another\n"); err != nil {
		t.Fatal(err)
	}
	if both, err := os.ReadFile(filepath.Join(machine, caFile)); string(both) != string(ca.PEM())+"another\n" {
		t.Errorf("with another CA: %s, %v", both, err)
	}
	if own, err := os.ReadFile(filepath.Join(dir, caFile)); string(own) != string(ca.PEM()) {
		t.Errorf("the installation's CA is %s now, %v", own, err)
	}
	if err := ca.Export(filepath.Join(dir, caFile)); err == nil {
		t.Error("no error where the directory is a file")
	}
}

func FuzzDamagedLeaf(f *testing.F) {
	ca, err := OpenCA(f.TempDir())
	if err != nil {
		f.Fatal(err)
	}
	pair, err := ca.Client()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(pair.CertPEM, pair.KeyPEM)
	f.Add(pair.CertPEM[:200], pair.KeyPEM[:100])
	f.Add(pair.KeyPEM, pair.CertPEM)
	f.Add([]byte("-----BEGIN CERTIFICATE-----"), []byte{})
	f.Fuzz(func(t *testing.T, certPEM, keyPEM []byte) {
		write(t, certPEM, ca.dir, certFile)
		write(t, keyPEM, ca.dir, keyFile)
		if client(t, ca).Leaf.CheckSignatureFrom(ca.cert) != nil {
			t.Error("not this CA's")
		}
		if _, err := tls.LoadX509KeyPair(filepath.Join(ca.dir, certFile), filepath.Join(ca.dir, keyFile)); err != nil {
			t.Error(err)
		}
	})
}

// What is discarded is made anew, key and all, and only once.
func TestDiscard(t *testing.T) {
	ca, err := OpenCA(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	server := func() (Pair, error) { return ca.Server(dir, names, addresses) }
	for what, test := range map[string]struct {
		get     func() (Pair, error)
		discard func() error
	}{
		"client": {ca.Client, ca.DiscardClient},
		"server": {server, func() error { return DiscardServer(dir) }},
	} {
		if err := test.discard(); err != nil { // there is none yet
			t.Fatal(err)
		}
		first, err := test.get()
		if err != nil {
			t.Fatal(err)
		}
		if err := test.discard(); err != nil {
			t.Fatal(err)
		}
		second, err := test.get()
		if err != nil || bytes.Equal(second.KeyPEM, first.KeyPEM) || bytes.Equal(second.CertPEM, first.CertPEM) {
			t.Errorf("%s: the same again, %v", what, err)
		}
		if third, err := test.get(); err != nil || !bytes.Equal(third.CertPEM, second.CertPEM) {
			t.Errorf("%s: another one again, %v", what, err)
		}
		if err := second.Leaf.CheckSignatureFrom(ca.cert); err != nil {
			t.Errorf("%s: %v", what, err)
		}
	}
}
