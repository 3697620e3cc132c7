//go:build linux

package engine

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestReadProfile(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"ca.pem", "server.pem", "server-key.pem"} {
		os.WriteFile(filepath.Join(dir, name), []byte("PEM of "+name), 0o600)
	}
	// What docker-machine writes.
	path := filepath.Join(dir, "profile")
	os.WriteFile(path, []byte(`
EXTRA_ARGS='
--label provider=xhyve
--insecure-registry r:5000
--registry-mirror=https://m
--debug
'
CACERT=`+dir+`/ca.pem
DOCKER_HOST='-H tcp://0.0.0.0:49153'
DOCKER_STORAGE=vfs
DOCKER_DIR=/mnt/data/docker
DOCKER_TLS=auto
SERVERKEY=`+dir+`/server-key.pem
SERVERCERT=`+dir+`/server.pem

export "HTTP_PROXY=http://p q"
echo printed
`), 0o600)
	p, err := readProfile(testReaper, path)
	if err != nil {
		t.Fatal(err)
	}
	if want := []string{"label=provider=xhyve", "insecure-registry=r:5000", "registry-mirror=https://m", "debug", "storage-driver=vfs", "data-root=/mnt/data/docker"}; !slices.Equal(p.options, want) {
		t.Errorf("options %q", p.options)
	}
	if p.port != 49153 {
		t.Errorf("port %d", p.port)
	}
	if !slices.Equal(p.env, []string{"HTTP_PROXY=http://p q"}) {
		t.Errorf("environment %q", p.env)
	}
	if p.ca != "PEM of ca.pem" || p.cert != "PEM of server.pem" || p.key != "PEM of server-key.pem" {
		t.Errorf("certificates %q, %q, %q", p.ca, p.cert, p.key)
	}
	os.Remove(filepath.Join(dir, "server.pem"))
	if p, err := readProfile(testReaper, path); err != nil || p.ca != "" {
		t.Errorf("without a certificate: %+v, %v", p, err)
	}
	os.WriteFile(path, []byte("exit 4"), 0o600)
	if _, err := readProfile(testReaper, path); err == nil {
		t.Error("a profile that fails is no error")
	}
	if p, err := readProfile(testReaper, filepath.Join(dir, "none")); err != nil || p.options != nil {
		t.Errorf("no profile: %+v, %v", p, err)
	}
}

func TestProfileOfBoot2docker(t *testing.T) {
	path := filepath.Join(t.TempDir(), "profile")
	// What boot2docker itself wrote and what people found on the web: nothing of it
	// opens the engine to the network or asks for a driver that is gone.
	os.WriteFile(path, []byte("DOCKER_STORAGE=aufs\nDOCKER_TLS=no\nDOCKER_HOST='-H unix:///x'\n"), 0o600)
	p, err := readProfile(testReaper, path)
	if err != nil || len(p.options) > 0 || p.port != 0 {
		t.Errorf("%+v, %v", p, err)
	}
}

func TestTCPPort(t *testing.T) {
	for flags, want := range map[string]uint16{
		"":                            0,
		"-H tcp://0.0.0.0:2376":       2376,
		"-H unix:///x -H tcp://:2377": 2377,
		"-H tcp://[::]:2378 -H x":     2378,
		"-H tcp://0.0.0.0":            0,
		"-H tcp://0.0.0.0:70000":      0,
	} {
		if got := tcpPort(flags); got != want {
			t.Errorf("tcpPort(%q) = %d, want %d", flags, got, want)
		}
	}
}

func TestFlagWords(t *testing.T) {
	got := flagWords(strings.Fields("stray --label a=b --debug --mtu=3 stray -s overlay2"))
	if !slices.Equal(got, []string{"label=a=b", "debug", "mtu=3", "s=overlay2"}) {
		t.Errorf("flagWords = %q", got)
	}
}
