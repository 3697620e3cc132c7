package dockerenv

import (
	"bytes"
	"crypto/tls"
	"encoding/json"
	"encoding/pem"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"unicode"
)

// The path of a socket is taken to the letter, as docker's client does.
func TestOddSocket(t *testing.T) {
	for _, name := range []string{"a#b", "a?b", "a%20b", "a%hb", "a b", "ä\\", "@"} {
		path := filepath.Join(t.TempDir(), name)
		l, err := net.Listen("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		server := http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.Header().Set("Server", "Docker/1.2.3 (linux)") })}
		go server.Serve(l)
		if version, err := Ping(t.Context(), path); err != nil || version != "1.2.3" {
			t.Errorf("%q: %s, %v", name, version, err)
		}
		server.Close()
		if err := checkHost("unix://" + path); err != nil {
			t.Errorf("%q: %v", name, err)
		}
	}
}

func TestEndpoint(t *testing.T) {
	s := store(t)
	put := func(name, text string) {
		t.Helper()
		must(t, os.MkdirAll(s.dirOf("meta", name), 0o700))
		write(t, filepath.Join(s.dirOf("meta", name), "meta.json"), text)
	}
	put("desktop-linux", `{"Name":"desktop-linux","Metadata":{"otel":{"a":1}},"Endpoints":{"docker":{"Host":"unix:///Users/me/.docker/run/docker.sock","SkipTLSVerify":false}}}`)
	put("pipe", `{"Endpoints":{"docker":{"Host":"npipe:////./pipe/docker_engine"}}}`)
	put("none", `{"Endpoints":{}}`)
	put("option", `{"Endpoints":{"docker":{"Host":"ssh://-oProxyCommand=x"}}}`)
	put("broken", `{`)
	put("large", `{"Name":"`+strings.Repeat("x", maxMeta)+`"}`)
	for _, test := range []struct{ name, want, err string }{
		{"desktop-linux", "unix:///Users/me/.docker/run/docker.sock", ""},
		{"default", "unix:///var/run/docker.sock", ""},
		{"ssh://me@host:2222", "ssh://me@host:2222", ""},
		{"tcp://[::1]:2375", "tcp://[::1]:2375", ""},
		{"pipe", "", "named pipe of Windows"},
		{"none", "", "is no address of an engine"},
		{"option", "", "is no address of an engine"},
		{"broken", "", "unexpected end of JSON"},
		{"large", "", "is longer than"},
		{"nosuch", "", `there is no docker context "nosuch"`},
		{"../x", "", "is no name of a docker context"},
		{"ftp://x", "", "is no address of an engine"},
		{"unix://relative", "", "is no address of an engine"},
		{"tcp://host/path", "", "is no address of an engine"},
	} {
		e, err := s.Endpoint(env(), test.name)
		if test.err == "" && (err != nil || e.Host != test.want || e.TLS != nil) || test.err != "" && (err == nil || !strings.Contains(err.Error(), test.err)) {
			t.Errorf("%.80s: got %+v, %v, want %s%s", test.name, e, err, test.want, test.err)
		}
	}
	if e, err := s.Endpoint(env("DOCKER_HOST", "tcp://1.2.3.4:2376"), "default"); err != nil || e.Host != "tcp://1.2.3.4:2376" {
		t.Errorf("DOCKER_HOST: %+v, %v", e, err)
	}
	if _, err := s.Endpoint(env("DOCKER_HOST", "tcp://1.2.3.4:2376", "DOCKER_TLS_VERIFY", "1", "DOCKER_CERT_PATH", t.TempDir()), "default"); err == nil {
		t.Error("TLS without certificates is taken")
	}
}

// A context that docker makes, with a CA, leads to an engine behind TLS.
func TestEndpointWithTLS(t *testing.T) {
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/info":
			w.Write([]byte(`{"ID": "x"}`))
		case "/moved":
			http.Redirect(w, r, "http://127.0.0.1:1/", http.StatusFound)
		default:
			w.WriteHeader(http.StatusConflict)
			w.Write([]byte(`{"message": "so\u001b[2J\nnot"}`))
		}
	}))
	defer server.Close()
	ca := filepath.Join(t.TempDir(), "ca.pem")
	write(t, ca, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})))
	program, err := exec.LookPath("docker")
	if err != nil {
		t.Skip(err)
	}
	s := store(t)
	cmd := exec.Command(program, "context", "create", "far", "--docker", "host=tcp://"+strings.TrimPrefix(server.URL, "https://")+",ca="+ca)
	cmd.Env = []string{"DOCKER_CONFIG=" + s.Dir, "HOME=" + t.TempDir()}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	e, err := s.Endpoint(env(), "far")
	must(t, err)
	engine := e.Open()
	defer engine.Close()
	var info struct{ ID string }
	if err := engine.Call(t.Context(), http.MethodGet, "/info", nil, nil, &info); err != nil || info.ID != "x" {
		t.Errorf("got %+v, %v", info, err)
	}
	refused := (*APIError)(nil)
	if err := engine.Call(t.Context(), http.MethodPost, "/x", url.Values{"a": {"b"}}, map[string]string{}, nil); !errors.As(err, &refused) || refused.Code != 409 || refused.Message != "so [2J not" {
		t.Errorf("refused: %v", err)
	}
	if err := engine.Call(t.Context(), http.MethodGet, "/moved", nil, nil, nil); !errors.As(err, &refused) || refused.Code != 302 {
		t.Errorf("sent elsewhere: %v", err)
	}
	// Without the CA there is no trust.
	e.TLS = &tls.Config{}
	if err := e.Open().Call(t.Context(), http.MethodGet, "/info", nil, nil, nil); err == nil {
		t.Error("an unknown certificate was taken")
	}
}

// An address with ssh goes through the ssh on PATH, as with the docker CLI.
func TestEndpointOverSSH(t *testing.T) {
	socket := engine(t, "Docker/26.1.5 (linux)", 200, "OK")
	dir := t.TempDir()
	python, err := exec.LookPath("python3")
	if err != nil {
		t.Skip(err)
	}
	write(t, filepath.Join(dir, "ssh"), `#!/bin/sh
echo "$@" > "$0.args"
[ "$(cat "$0.fails" 2>/dev/null)" ] && { echo "Permission denied" >&2; exit 255; }
exec `+python+` -c '
import socket, sys, threading, os
s = socket.socket(socket.AF_UNIX); s.connect("`+socket+`")
def up():
    while True:
        b = os.read(0, 65536)
        if not b: break
        s.sendall(b)
threading.Thread(target=up, daemon=True).start()
while True:
    b = s.recv(65536)
    if not b: break
    os.write(1, b)
'
`)
	must(t, os.Chmod(filepath.Join(dir, "ssh"), 0o700))
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	e, err := store(t).Endpoint(env(), "ssh://me@far:2222")
	must(t, err)
	engine := e.Open()
	if err := engine.Call(t.Context(), http.MethodGet, "/_ping", nil, nil, nil); err != nil {
		t.Error(err)
	}
	engine.Close()
	if got := strings.TrimSpace(read(t, filepath.Join(dir, "ssh.args"))); got != "-T -o ConnectTimeout=30 -l me -p 2222 -- far docker system dial-stdio" {
		t.Errorf("ssh was given %s", got)
	}
	write(t, filepath.Join(dir, "ssh.fails"), "yes")
	if err := e.Open().Call(t.Context(), http.MethodGet, "/_ping", nil, nil, nil); err == nil || !strings.Contains(err.Error(), "ssh says: Permission denied") {
		t.Errorf("got %v", err)
	}
}

func FuzzEndpoint(f *testing.F) {
	f.Add([]byte(`{"Name":"x","Endpoints":{"docker":{"Host":"unix:///x"}}}`), "tcp://[::1]:22")
	f.Add([]byte(`{"Endpoints":{"docker":{"Host":"ssh://a@b"}}}`), "ssh://-x")
	f.Fuzz(func(t *testing.T, meta []byte, host string) {
		var m contextMeta
		if json.Unmarshal(meta, &m) == nil {
			checkHost(m.Endpoints["docker"].Host)
		}
		if checkHost(host) != nil {
			return
		}
		u, err := url.Parse(host)
		if err != nil || strings.HasPrefix(u.Hostname(), "-") {
			t.Errorf("%q was taken", host)
		}
		if _, err := http.NewRequest(http.MethodGet, Endpoint{Host: host}.base()+"/x", bytes.NewReader(nil)); err != nil {
			t.Errorf("%q: %v", host, err)
		}
	})
}

func FuzzPrintable(f *testing.F) {
	f.Add("a\x1b[2J\nb\xff\u202e")
	f.Fuzz(func(t *testing.T, text string) {
		got := Printable(text)
		if len(got) > 3*maxMessage || strings.ContainsFunc(got, func(r rune) bool { return !unicode.IsGraphic(r) }) {
			t.Errorf("%q became %q", text, got)
		}
	})
}
