package migrate

import (
	"encoding/json"
	"strings"
	"testing"
)

const (
	testID    = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
	otherID   = "fedcba9876543210fedcba9876543210fedcba9876543210fedcba9876543210"
	anonymous = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
)

var testSource = source{"desktop", "runc", "2", map[string]string{otherID: "db"}, map[string]string{otherID: "net"}}

// container is what an engine says of one; more goes into it, config and host.
func container(config, host, more string) string {
	return `{"Id": "` + testID + `", "Name": "/web", "Image": "sha256:` + testID + `", "State": {"Running": true},
		"Config": {"Image": "app:1"` + config + `}, "HostConfig": {"NetworkMode": "bridge"` + host + `}` + more + `}`
}

func defineText(t *testing.T, text string) (*definition, error) {
	t.Helper()
	var c inspected
	if err := json.Unmarshal([]byte(text), &c); err != nil {
		t.Fatalf("%s: %v", text, err)
	}
	return testSource.define(c)
}

func TestDefine(t *testing.T) {
	for name, test := range map[string]struct{ in, want string }{
		"plain": {
			container(`, "Cmd": ["x"], "Hostname": "0123456789ab"`, `, "Runtime": "runc", "RestartPolicy": {"Name": "always"}, "ContainerIDFile": "/x"`, ""),
			`{"Cmd":["x"],"HostConfig":{"NetworkMode":"bridge","RestartPolicy":{"Name":"always"}},"Image":"ref","NetworkingConfig":{"EndpointsConfig":{}}}`,
		},
		"what it does not know": {
			container(`, "New": {"a": [1, null]}, "Hostname": "own"`, `, "Runtime": "crun"`, ""),
			`{"HostConfig":{"NetworkMode":"bridge","Runtime":"crun"},"Hostname":"own","Image":"ref","NetworkingConfig":{"EndpointsConfig":{}},"New":{"a":[1,null]}}`,
		},
		"volumes": {
			container(`, "Volumes": {"/anon": {}}`, `, "Binds": ["data:/data:ro", "/var/run/docker.sock:/var/run/docker.sock"], "VolumesFrom": ["x"],
				"Mounts": [{"Type": "volume", "Target": "/m"}, {"Type": "tmpfs", "Target": "/t"}]`,
				`, "Mounts": [{"Type": "volume", "Name": "data", "Driver": "local", "Destination": "/data"},
				{"Type": "volume", "Name": "`+anonymous+`", "Driver": "local", "Destination": "/anon", "RW": true},
				{"Type": "volume", "Name": "m", "Driver": "local", "Destination": "/m", "RW": true},
				{"Type": "volume", "Name": "lent", "Driver": "local", "Destination": "/lent"},
				{"Type": "bind", "Source": "/var/run/docker.sock", "Destination": "/var/run/docker.sock"}, {"Type": "tmpfs", "Destination": "/t"}]`),
			`{"HostConfig":{"Binds":["data:/data:ro","/var/run/docker.sock:/var/run/docker.sock","` + anonymous + `:/anon","lent:/lent:ro"],` +
				`"Mounts":[{"Source":"m","Target":"/m","Type":"volume"},{"Target":"/t","Type":"tmpfs"}],"NetworkMode":"bridge"},` +
				`"Image":"ref","NetworkingConfig":{"EndpointsConfig":{}},"Volumes":{"/anon":{}}}`,
		},
		"networks": {
			container(`, "MacAddress": "02:00:00:00:00:01"`, `, "NetworkMode": "`+otherID+`", "Links": ["/db:/web/store"]`,
				`, "NetworkSettings": {"Networks": {"net": {"IPAMConfig": {"IPv4Address": "10.0.0.9"}, "Aliases": ["w", "0123456789ab"], "IPAddress": "10.0.0.9", "DriverOpts": null}}}`),
			`{"HostConfig":{"Links":["db:store"],"NetworkMode":"net"},"Image":"ref","NetworkingConfig":{"EndpointsConfig":{"net":` +
				`{"Aliases":["w"],"IPAMConfig":{"IPv4Address":"10.0.0.9"},"MacAddress":"02:00:00:00:00:01"}}}}`,
		},
		"another's network": {
			container(`, "Hostname": "fedcba987654", "ExposedPorts": {"80/tcp": {}}`, `, "NetworkMode": "container:`+otherID+`"`, `, "NetworkSettings": {"Networks": {"bridge": {}}}`),
			`{"HostConfig":{"NetworkMode":"container:db"},"Image":"ref","NetworkingConfig":{"EndpointsConfig":{}}}`,
		},
	} {
		d, err := defineText(t, test.in)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		got, err := json.Marshal(d.body("ref"))
		if err != nil || string(got) != test.want {
			t.Errorf("%s: got\n%s, want\n%s", name, got, test.want)
		}
		if d.name != "web" || !d.running || d.imageRef != "app:1" {
			t.Errorf("%s: got %+v", name, d)
		}
	}
}

func TestDefineRefuses(t *testing.T) {
	for name, test := range map[string]struct{ in, want string }{
		"a directory":      {container("", `, "Binds": ["/Users/me:/src"]`, ""), `"/Users/me" of its host at "/src"`},
		"another socket":   {container("", `, "Binds": ["/home/me/x.sock:/var/run/docker.sock"]`, ""), "of its host"},
		"a mount":          {container("", `, "Mounts": [{"Type": "bind", "Source": "/a", "Target": "/b"}]`, ""), "of its host"},
		"a lent directory": {container("", "", `, "Mounts": [{"Type": "bind", "Source": "/a", "Destination": "/b"}]`), "of its host"},
		"Windows":          {container("", `, "Binds": ["C:\\me:/b"]`, `, "Mounts": [{"Type": "bind", "Source": "C:\\me", "Destination": "/b"}]`), "of its host"},
		"a pipe":           {container("", "", `, "Mounts": [{"Type": "npipe", "Source": "a", "Destination": "/b"}]`), "of its host"},
		"a driver":         {container("", "", `, "Mounts": [{"Type": "volume", "Name": "v", "Driver": "nfs", "Destination": "/b"}]`), "of the driver"},
		"an odd volume":    {container("", "", `, "Mounts": [{"Type": "volume", "Name": "../v", "Driver": "local", "Destination": "/b"}]`), "of its host"},
		"a device":         {container("", `, "Devices": [{"PathOnHost": "/dev/kvm"}]`, ""), "/dev/kvm"},
		"a GPU":            {container("", `, "DeviceRequests": [{"Count": -1}]`, ""), "DeviceRequests"},
		"a service":        {container(`, "Labels": {"com.docker.swarm.service.name": "web\u001b[2J"}`, "", ""), "swarm service web [2J"},
		"an odd network":   {container("", "", `, "NetworkSettings": {"Networks": {"a/../b": {}}}`), "whose name cannot be"},
		"a gone namespace": {container("", `, "IpcMode": "container:../x"`, ""), "that is gone"},
		"an odd link":      {container("", `, "Links": ["x"]`, ""), "links"},
		"wrong types":      {container("", `, "Binds": "x"`, ""), "Binds cannot be read"},
		"an odd name":      {strings.Replace(container("", "", ""), "/web", "/../web", 1), "cannot be"},
		"an odd image":     {strings.Replace(container("", "", ""), "sha256:0", "sha256:x", 1), "cannot be"},
		"an odd ID":        {strings.Replace(container("", "", ""), `"Id": "0`, `"Id": "`, 1), "cannot be"},
		"nothing":          {"{}", "cannot be"},
	} {
		if d, err := defineText(t, test.in); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: got %+v, %v, want %s", name, d, err, test.want)
		}
	}
}

func FuzzDefine(f *testing.F) {
	f.Add([]byte(container(`, "Hostname": "x"`, `, "Binds": ["data:/data"], "Links": ["/a:/b/c"], "Mounts": [{"Type": "volume", "Target": "/m"}]`,
		`, "Mounts": [{"Type": "volume", "Name": "data", "Driver": "local", "Destination": "/data"}], "NetworkSettings": {"Networks": {"net": {"Aliases": []}}}`)))
	f.Fuzz(func(t *testing.T, text []byte) {
		var c inspected
		if json.Unmarshal(text, &c) != nil {
			return
		}
		d, err := testSource.define(c)
		if err != nil {
			return
		}
		if _, err := json.Marshal(d.body("ref")); err != nil {
			t.Errorf("it cannot be sent: %v", err)
		}
		for _, name := range append(d.volumes, d.name) {
			if !objectPattern().MatchString(name) {
				t.Errorf("name %q", name)
			}
		}
	})
}

func TestFilter(t *testing.T) {
	for _, test := range []struct {
		values    []string
		name      string
		match, ok bool
	}{
		{nil, "x", true, true},
		{[]string{"yes"}, "x", true, true},
		{[]string{"no"}, "x", false, true},
		{[]string{"a", "x"}, "x", true, true},
		{[]string{"a", "b"}, "x", false, true},
		{[]string{"web-*"}, "web-1", true, true},
		{[]string{"*/app:?"}, "registry.local:5000/team/app:1", true, true},
		{[]string{"yes", "x"}, "x", false, false},
		{[]string{"["}, "x", false, false},
		{[]string{""}, "x", false, false},
	} {
		f, err := ParseFilter(test.values)
		if (err == nil) != test.ok || err == nil && f.match(test.name) != test.match {
			t.Errorf("%q: %+v, %v; it matches %s: %t", test.values, f, err, test.name, f.match(test.name))
		}
	}
	// Who names something wants nothing else.
	names, _ := ParseFilter([]string{"web"})
	yes, _ := ParseFilter([]string{"yes"})
	s := Selection{Containers: names, Images: yes}.settle()
	if s.Containers.none || s.Images.none || !s.Volumes.none {
		t.Errorf("got %+v", s)
	}
	if s = (Selection{}).settle(); s.Containers.none || s.Images.none || s.Volumes.none {
		t.Errorf("got %+v", s)
	}
}

// A journal outlives its process, is one engine's, and keeps others out.
func TestJournal(t *testing.T) {
	dir := t.TempDir()
	j, err := openJournal(dir, "engine")
	if err != nil {
		t.Fatal(err)
	}
	j.Volumes["data"] = volumeRecord{"then", "sum"}
	if err := j.keep(); err != nil {
		t.Fatal(err)
	}
	if _, err := openJournal(dir, "other"); err == nil || !strings.Contains(err.Error(), ErrBusy.Error()) {
		t.Errorf("two at once: %v", err)
	}
	j.close()
	if j, err = openJournal(dir, "other"); err != nil || len(j.Volumes) > 0 {
		t.Errorf("another engine's: %+v, %v", j, err)
	}
	j.close()
	if j, err = openJournal(dir, "engine"); err != nil || j.Volumes["data"].Sum != "sum" {
		t.Errorf("the same one's: %+v, %v", j, err)
	}
	j.close()
}
