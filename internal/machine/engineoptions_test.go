package machine

import (
	"strings"
	"testing"
)

func TestCheckEngineOption(t *testing.T) {
	for _, good := range []string{"debug", "dns=1.1.1.1", "log-opt=max-size=1m", "storage-driver=vfs", "storage-driver=overlay2", "ip=", "nosuchopt=1",
		"insecure-registry=r:5000", "registry-mirror=https://m"} {
		if err := checkEngineOption(good); err != nil {
			t.Errorf("%q: %v", good, err)
		}
	}
	for _, bad := range []string{"", "x", "-debug", "--debug", "=1", "D", "de bug", "debug\nx", "s=vfs", "storage-driver", "storage-driver=", "storage-driver=foo",
		"help", "version", "validate=true", "insecure-registry=a b", "registry-mirror=m", "storage-driver=" + strings.Repeat("x", 5000)} {
		if err := checkEngineOption(bad); err == nil || strings.Contains(err.Error(), "\n") || len(err.Error()) > 300 {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

// As dockerd 26 and 28 have it: TestLoadInsecureRegistries of github.com/docker/docker/registry.
func TestCheckInsecure(t *testing.T) {
	for _, good := range []string{"127.0.0.1", "127.0.0.1:8080", "2001:db8::1", "[2001:db8::1]:80", "http://myregistry.example.com", "https://r.example.com:5000",
		"HTTP://r", "10.0.0.0/8", "2001:db8::/32", "r", "r:5000", "registry.test:5000", "UPPER.example"} {
		if err := checkInsecure(good); err != nil {
			t.Errorf("%q: %v", good, err)
		}
	}
	for _, bad := range []string{"", "a b", "-r", "r-", "svn://r", "r/path", "r:5000/path", "`r`", "my_registry.example", "r:99999", "r:-1", "r:x", "10.0.0.0/99", "r\n", "r,s",
		"svn://myregistry.example.com", "mytest-.com", "1200:0000:AB00:1234:0000:2552:7777:1313:8080", "myregistry.example.com:500000", "\"myregistry.example.com\""} {
		if err := checkInsecure(bad); err == nil || strings.Contains(err.Error(), "\n") {
			t.Errorf("%q: %v", bad, err)
		}
	}
}
