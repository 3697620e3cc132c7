//go:build linux

package guest

import (
	"os"
	"path/filepath"
	"slices"
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
DOCKER_HOST='-H tcp://0.0.0.0:2376'
DOCKER_STORAGE=overlay2
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
	if want := []string{"label=provider=xhyve", "insecure-registry=r:5000", "registry-mirror=https://m", "debug"}; !slices.Equal(p.options, want) {
		t.Errorf("options %q", p.options)
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
