package engine

import (
	"encoding/json"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/hyve-vm/hyve/internal/guestapi"
)

func TestComposeEngineConfig(t *testing.T) {
	id := guestapi.Identity{
		Network: guestapi.Network{MTU: 16384, Host: "192.168.127.254"}, Labels: []string{"a=1"}, RegistryMirrors: []string{"https://m"},
		InsecureRegistries: []string{"r:5000"}, Proxies: map[string]string{"HTTP_PROXY": "http://p", "NO_PROXY": ""},
	}
	base := map[string]any{
		"data-root": "/var/lib/docker", "storage-driver": "overlay2", "exec-opts": []any{"native.cgroupdriver=cgroupfs"},
		"host-gateway-ip": "192.168.127.254",
		"mtu":             16384.0, "default-network-opts": map[string]any{"bridge": map[string]any{"com.docker.network.driver.mtu": "16384"}},
		"labels": []any{"a=1"}, "registry-mirrors": []any{"https://m"}, "insecure-registries": []any{"r:5000"},
		"proxies": map[string]any{"http-proxy": "http://p"}, "userland-proxy-path": shimPath,
		"live-restore": false, "default-runtime": "crun",
		"runtimes": map[string]any{"crun": map[string]any{"path": "/usr/bin/crun"}},
	}
	with := func(change func(map[string]any)) map[string]any {
		m := map[string]any{}
		for k, v := range base {
			m[k] = v
		}
		change(m)
		return m
	}
	for name, test := range map[string]struct {
		engine guestapi.Engine
		user   string
		file   map[string]any
		flags  []string // beyond the four of hyve's own
		notes  int
	}{
		"plain": {file: base},
		"user's file": {user: `{"debug":true,"mtu":1400,"labels":["u=1"],"exec-opts":["x=y"],"hosts":["tcp://0.0.0.0"],"userland-proxy-path":"/x"}`, notes: 2,
			file: with(func(m map[string]any) {
				m["debug"], m["mtu"], m["labels"] = true, 1400.0, []any{"u=1", "a=1"}
				m["exec-opts"] = []any{"native.cgroupdriver=cgroupfs", "x=y"}
			})},
		"another gateway": {user: `{"host-gateway-ips":["1.2.3.4"]}`, file: with(func(m map[string]any) {
			delete(m, "host-gateway-ip")
			m["host-gateway-ips"] = []any{"1.2.3.4"}
		})},
		"a label again": {user: `{"labels":["a=0","c=1"]}`, engine: guestapi.Engine{Options: []string{"label=c=2"}},
			file: with(func(m map[string]any) { m["labels"] = []any{"c=2", "a=1"} })},
		"containerd's images": {user: `{"features":{"containerd-snapshotter":true}}`, file: with(func(m map[string]any) {
			delete(m, "storage-driver")
			m["features"] = map[string]any{"containerd-snapshotter": true}
		})},
		"options": {engine: guestapi.Engine{Options: []string{"label=b=2", "--label=a=1", "registry-mirror=https://n", "mtu=1500", "debug",
			"storage-driver=vfs", "log-opt=max-size=1m"}},
			flags: []string{"--mtu=1500", "--debug", "--storage-driver=vfs", "--log-opt=max-size=1m"},
			file: with(func(m map[string]any) {
				m["labels"], m["registry-mirrors"] = []any{"b=2", "a=1"}, []any{"https://n", "https://m"}
				delete(m, "mtu")
				delete(m, "storage-driver")
			})},
		"options that are hyve's": {engine: guestapi.Engine{Options: []string{"host=tcp://0.0.0.0:2375", "H=x", "tls=false", "group=root"}},
			notes: 4, file: base},
		"flag against a file's key": {user: `{"log-opts":{"max-size":"1m"},"default-ulimits":{}}`,
			engine: guestapi.Engine{Options: []string{"log-opt=max-size=2m"}}, flags: []string{"--log-opt=max-size=2m"},
			file: with(func(m map[string]any) { m["default-ulimits"] = map[string]any{} })},
		"other runtimes": {user: `{"runtimes":{"a":{"path":"/a"}}}`, engine: guestapi.Engine{Options: []string{"add-runtime=b=/b", "default-runtime=runc"}},
			flags: []string{"--default-runtime=runc"},
			file: with(func(m map[string]any) {
				delete(m, "default-runtime")
				m["runtimes"] = map[string]any{"a": map[string]any{"path": "/a"}, "b": map[string]any{"path": "/b"}, "crun": map[string]any{"path": "/usr/bin/crun"}}
			})},
		"proxy as an option": {engine: guestapi.Engine{Options: []string{"http-proxy=http://q"}}, flags: []string{"--http-proxy=http://q"}, notes: 1,
			file: with(func(m map[string]any) { delete(m, "proxies") })},
	} {
		c, err := composeDockerdConfig(id, test.engine, []byte(test.user))
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		var file map[string]any
		if err := json.Unmarshal(c.file, &file); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if !reflect.DeepEqual(file, test.file) {
			t.Errorf("%s: file\n%v\nwant\n%v", name, file, test.file)
		}
		if flags := c.flags[4:]; !slices.Equal(flags, test.flags) {
			t.Errorf("%s: flags %q, want %q", name, flags, test.flags)
		}
		if len(c.notes) != test.notes {
			t.Errorf("%s: notes %q, want %d", name, c.notes, test.notes)
		}
		// The flags are asked for again, without an identity, at every start.
		if again, _ := composeDockerdConfig(guestapi.Identity{}, test.engine, []byte(test.user)); !slices.Equal(again.flags, c.flags) {
			t.Errorf("%s: flags depend on the identity: %q, %q", name, again.flags, c.flags)
		}
	}
	if _, err := composeDockerdConfig(id, guestapi.Engine{}, []byte("{")); err == nil || !strings.Contains(err.Error(), userDaemonJSON) {
		t.Errorf("a broken file of the user gives %v", err)
	}
}

func FuzzComposeEngineConfig(f *testing.F) {
	f.Add(`{"labels":["x"],"exec-opts":"x","features":1}`, "label=x")
	f.Fuzz(func(t *testing.T, user, option string) {
		c, err := composeDockerdConfig(guestapi.Identity{Labels: []string{"a"}}, guestapi.Engine{Options: []string{option}}, []byte(user))
		if err != nil {
			return
		}
		for _, flag := range c.flags[4:] {
			if strings.HasPrefix(flag, "--host") && !strings.HasPrefix(flag, "--hostname") {
				t.Errorf("option %q became %q", option, flag)
			}
		}
		if !json.Valid(c.file) {
			t.Errorf("file %s", c.file)
		}
	})
}
