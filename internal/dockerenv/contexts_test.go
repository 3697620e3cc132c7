package dockerenv

import (
	"bytes"
	"encoding/json"
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

func store(t *testing.T) Store {
	t.Helper()
	s, err := OpenStore(env("DOCKER_CONFIG", filepath.Join(t.TempDir(), "docker")), "/home/me/hyve")
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func wantCurrent(t *testing.T, s Store, want string) {
	t.Helper()
	if current, err := s.Current(); current != want || err != nil {
		t.Errorf("current context %q, error %v, want %q", current, err, want)
	}
}

func TestOpenStore(t *testing.T) {
	if s, err := OpenStore(env("HOME", "/home/me"), ""); s.Dir != "/home/me/.docker" || err != nil {
		t.Errorf("got %q, error %v", s.Dir, err)
	}
	if _, err := OpenStore(env(), ""); err == nil {
		t.Error("no error without HOME")
	}
}

func TestContextComesAndGoes(t *testing.T) {
	s := store(t)
	if err := s.Use("dev"); err == nil {
		t.Error("a context that is not there was used")
	}
	must(t, s.Remove("dev"))
	wantCurrent(t, s, "default")
	must(t, s.Put("dev", "/run/1.sock", "hyve machine dev"))
	must(t, s.Put("two", "/run/2.sock", ""))
	must(t, s.Use("dev"))
	wantCurrent(t, s, "hyve-dev")
	must(t, s.Remove("two"))
	wantCurrent(t, s, "hyve-dev")
	must(t, s.Put("dev", "/run/3.sock", "hyve machine dev"))
	if text := read(t, s.metaPath("dev")); !strings.Contains(text, "unix:///run/3.sock") {
		t.Errorf("the context was not updated: %s", text)
	}
	must(t, s.Remove("dev"))
	wantCurrent(t, s, "default")
	for _, kind := range []string{"meta", "tls"} {
		if entries, _ := os.ReadDir(filepath.Join(s.Dir, "contexts", kind)); len(entries) > 0 {
			t.Errorf("%s: %v left behind", kind, entries)
		}
	}
}

func TestForeignContextIsLeftAlone(t *testing.T) {
	for name, text := range map[string]string{
		"without a mark":       `{"Name":"hyve-dev","Metadata":{"Description":"mine"},"Endpoints":{"docker":{"Host":"ssh://x"}}}`,
		"another installation": `{"Name":"hyve-dev","Metadata":{"hyve":{"home":"/other"}},"Endpoints":{}}`,
		"odd metadata":         `{"Name":"hyve-dev","Metadata":{"hyve":"yes"}}`,
		"broken":               `{`,
	} {
		t.Run(name, func(t *testing.T) {
			s := store(t)
			must(t, os.MkdirAll(s.contextDir("meta", "dev"), 0o700))
			write(t, s.metaPath("dev"), text)
			err := s.Put("dev", "/run/1.sock", "")
			var hinted interface{ Hint() string }
			if !errors.As(err, &hinted) || !strings.Contains(hinted.Hint(), "hyve-dev") {
				t.Errorf("put: %v", err)
			}
			must(t, s.Remove("dev"))
			if got := read(t, s.metaPath("dev")); got != text {
				t.Errorf("now it is %s", got)
			}
		})
	}
}

func TestRemoveWithBrokenConfig(t *testing.T) {
	s := store(t)
	must(t, s.Put("dev", "/run/1.sock", ""))
	write(t, s.configPath(), "{")
	if err := s.Remove("dev"); err == nil {
		t.Error("no word about the broken config.json")
	}
	if _, err := os.Stat(s.metaPath("dev")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the context stayed: %v", err)
	}
}

func TestShouldAdopt(t *testing.T) {
	s := store(t)
	socket := filepath.Join(t.TempDir(), "docker.sock")
	check := func(want bool, wantWhy string, pairs ...string) {
		t.Helper()
		if ok, why := s.shouldAdopt(t.Context(), env(pairs...), socket); ok != want || !strings.Contains(why, wantWhy) {
			t.Errorf("got %v, %q; want %v, %q", ok, why, want, wantWhy)
		}
	}
	check(true, "")
	check(false, "DOCKER_HOST", "DOCKER_HOST", "ssh://x")
	check(false, "DOCKER_CONTEXT", "DOCKER_CONTEXT", "default")
	must(t, os.MkdirAll(s.Dir, 0o700))
	write(t, s.configPath(), `{"currentContext":"default"}`)
	check(true, "")
	write(t, s.configPath(), `{"currentContext":"colima"}`)
	check(false, "colima")
	write(t, s.configPath(), `{`)
	check(false, "config.json")
	os.Remove(s.configPath())

	listener, err := net.Listen("unix", socket)
	must(t, err)
	listener.(*net.UnixListener).SetUnlinkOnClose(false)
	check(false, socket)
	listener.Close()
	check(true, "") // the socket of an engine that is gone
}

// The docker CLI itself must take what hyve writes, and hyve what it writes.
func TestDockerCLI(t *testing.T) {
	program, err := exec.LookPath("docker")
	if err != nil {
		t.Skip(err)
	}
	s := store(t)
	docker := func(args ...string) string {
		t.Helper()
		cmd := exec.Command(program, args...)
		cmd.Env = []string{"DOCKER_CONFIG=" + s.Dir, "HOME=" + t.TempDir(), "PATH=" + os.Getenv("PATH")}
		var stdout, stderr bytes.Buffer
		cmd.Stdout, cmd.Stderr = &stdout, &stderr
		if err := cmd.Run(); err != nil {
			t.Fatalf("docker %q: %v: %s", args, err, &stderr)
		}
		return strings.TrimSpace(stdout.String())
	}
	must(t, s.Put("dev", "/run/a b/docker.sock", "hyve machine dev"))
	if list := docker("context", "ls", "--format", "{{.Name}}|{{.Description}}|{{.DockerEndpoint}}|{{.Current}}|{{.Error}}"); !strings.Contains(list, "hyve-dev|hyve machine dev|unix:///run/a b/docker.sock|false|") {
		t.Errorf("docker context ls: %s", list)
	}
	var inspected []contextMeta
	must(t, json.Unmarshal([]byte(docker("context", "inspect", "hyve-dev")), &inspected))
	if len(inspected) != 1 || inspected[0].Metadata.Hyve.Home != s.Home || inspected[0].Endpoints["docker"].Host != "unix:///run/a b/docker.sock" {
		t.Errorf("docker context inspect: %+v", inspected)
	}

	must(t, s.Use("dev"))
	if got := docker("context", "show"); got != "hyve-dev" {
		t.Errorf("docker context show: %s", got)
	}
	docker("context", "use", "default")
	wantCurrent(t, s, "default")
	docker("context", "use", "hyve-dev")
	wantCurrent(t, s, "hyve-dev")

	docker("context", "update", "--description", "my own words", "hyve-dev")
	must(t, s.Put("dev", "/run/a b/docker.sock", "hyve machine dev"))
	must(t, json.Unmarshal([]byte(docker("context", "inspect", "hyve-dev")), &inspected))
	if m := inspected[0].Metadata; m.Description != "my own words" || m.Hyve.Home != s.Home {
		t.Errorf("after docker context update: %+v", m)
	}

	docker("context", "create", "hyve-mine", "--docker", "host=unix:///mine.sock")
	if s.Put("mine", "/run/1.sock", "") == nil {
		t.Error("a context that docker made was overwritten")
	}
	must(t, s.Remove("mine"))
	must(t, s.Remove("dev"))
	if got := docker("context", "ls", "--quiet"); got != "default\nhyve-mine" {
		t.Errorf("after the removal: %q", got)
	}
	if got := docker("context", "show"); got != "default" {
		t.Errorf("current after the removal: %s", got)
	}
}
