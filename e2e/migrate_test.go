package e2e

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// A volume with rare kinds of files; /data is its mount point.
const oddVolume = `cd /data && mkdir dir && echo text > dir/a && ln dir/a b && ln -s ../nowhere dir/link && mkfifo fifo && mknod null c 1 3 &&
	touch "$(printf 'not-utf8-\377\376')" && dd if=/dev/zero of=sparse bs=1 count=1 seek=3000000 2>/dev/null &&
	dd if=/dev/urandom of=random bs=1M count=6 2>/dev/null && cp dir/a setuid && chmod 4755 setuid &&
	touch -d '2001-02-03 04:05:06' dir/a && chown 1234:4321 dir && chmod 2750 dir && chown -h 7:8 dir/link &&
	touch -d '2002-02-03 04:05:06' dir && chown 999:998 . && chmod 700 .`

// describeVolume prints all that there is to see of a volume.
const describeVolume = `cd /data && find . -exec stat -c '%n %f %u:%g %h %t,%T' {} \; | sort && find . -not -type d -exec stat -c '%n %s %Y' {} \; | sort &&
	stat -c %Y dir && readlink dir/link && find . -type f -exec md5sum {} \; | sort`

// Images, volumes and containers move from one machine into another, also if that is killed
// half-way.
func TestMigrate(t *testing.T) {
	const to = "into"
	create(t, to)
	t.Cleanup(func() {
		try(limit, docker, "--context", "hyve-"+shared, "rm", "-f", "-v", "mig-db", "mig-web", "mig-host")
		try(limit, docker, "--context", "hyve-"+shared, "volume", "rm", "mig-data")
		try(limit, docker, "--context", "hyve-"+shared, "network", "rm", "mig-net")
		try(limit, docker, "--context", "hyve-"+shared, "rmi", "mig-app:1", "mig-app:two")
	})
	dock(t, shared, "run", "--name", "mig-base", "busybox", "touch", "/made")
	dock(t, shared, "commit", "-c", "ENV WHO=me", "mig-base", "mig-app:1")
	dock(t, shared, "tag", "mig-app:1", "mig-app:two")
	dock(t, shared, "rm", "mig-base")
	dock(t, shared, "network", "create", "--subnet", "10.77.0.0/24", "--label", "a=b", "mig-net")
	dock(t, shared, "volume", "create", "--label", "kind=odd", "mig-data")
	dock(t, shared, "run", "--rm", "-v", "mig-data:/data", "busybox", "sh", "-c", oddVolume)
	dock(t, shared, "run", "-d", "--name", "mig-db", "--network", "mig-net", "--network-alias", "db", "--ip", "10.77.0.9", "--restart", "unless-stopped",
		"-v", "mig-data:/data:ro", "-e", "A=b", "mig-app:1", "sleep", "1000000")
	dock(t, shared, "run", "-d", "--name", "mig-web", "--network", "container:mig-db", "--restart", "on-failure:3", "-v", "/anon", "mig-app:two",
		"sh", "-c", "test -e /anon/file || echo once > /anon/file; sleep 1000000")
	dock(t, shared, "create", "--name", "mig-host", "-v", "/etc:/host", "busybox", "true")
	eventually(t, "the container has written", func() bool {
		_, _, code := result(t, docker, "--context", "hyve-"+shared, "exec", "mig-web", "ls", "/anon/file")
		return code == 0
	})
	if _, errText, code := result(t, binary, "migrate", "--from", "unix:///nowhere.sock", to); code != 1 ||
		!strings.Contains(errText, "docker --context unix:///nowhere.sock version") {
		t.Errorf("from nowhere: %d, %s", code, errText)
	}
	migrate := func(args ...string) (string, string, int) {
		t.Helper()
		return result(t, binary, append([]string{"migrate", "--from", "hyve-" + shared, to, "--containers", "mig-*"}, args...)...)
	}
	there := func() map[string]bool {
		t.Helper()
		out, errText, code := migrate("--dry-run", "--format", "json")
		var plan struct {
			Items []struct {
				Name  string
				There bool
			}
			Left []struct{ Name, Why string }
		}
		if err := json.Unmarshal([]byte(out), &plan); err != nil || code != 0 {
			t.Fatalf("exit status %d, %v: %s%s", code, err, out, errText)
		}
		if len(plan.Left) != 1 || plan.Left[0].Name != "mig-host" || !strings.Contains(plan.Left[0].Why, `"/etc"`) {
			t.Errorf("these stay behind: %+v", plan.Left)
		}
		items := map[string]bool{}
		for _, i := range plan.Items {
			items[i.Name] = i.There
		}
		return items
	}
	items := there()
	for _, name := range []string{"mig-app:1", "mig-data", "mig-net", "mig-db", "mig-web"} {
		if arrived, ok := items[name]; !ok || arrived {
			t.Errorf("%s is in the plan: %t, there: %t", name, ok, arrived)
		}
	}

	// Killed while the volume is on its way.
	cmd := command(t.Context(), binary, "migrate", "--from", "hyve-"+shared, to, "--containers", "mig-*")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the volume is being copied", func() bool {
		journals, _ := filepath.Glob(filepath.Join(home, "machines", to, "migrations", "*.json"))
		if len(journals) == 0 {
			return false
		}
		data, _ := os.ReadFile(journals[0])
		return strings.Contains(string(data), `"sum": ""`)
	})
	if _, text, code := migrate(); code != 1 || !strings.Contains(text, "another migration") {
		t.Errorf("a second one beside it: exit status %d: %s", code, text)
	}
	cmd.Process.Signal(syscall.SIGKILL)
	cmd.Wait()
	if items = there(); !items["mig-app:1"] || items["mig-db"] {
		t.Errorf("after the kill there are: %v", items)
	}
	_, text, code := migrate("--start")
	if code != 0 || strings.Contains(text, "image mig-app") || !strings.Contains(text, "container mig-host stays behind: it mounts") ||
		!strings.Contains(text, "2 volumes, 1 network, 2 containers copied to machine \"into\"; 1 were there") {
		t.Errorf("going on: exit status %d: %s", code, text)
	}
	if _, text, code = migrate(); code != 0 || !strings.Contains(text, `there was nothing to copy to machine "into"; 6 were there`) {
		t.Errorf("once more: exit status %d: %s", code, text)
	}

	for what, args := range map[string][]string{
		"image":     {"image", "inspect", "-f", "{{.Id}} {{.RepoTags}}", "mig-app:1"},
		"odd":       {"run", "--rm", "-v", "mig-data:/data", "mig-app:1", "sh", "-c", describeVolume},
		"volume":    {"volume", "inspect", "-f", "{{.Labels}}", "mig-data"},
		"anonymous": {"exec", "mig-web", "cat", "/anon/file"},
		"network":   {"network", "inspect", "-f", "{{json .IPAM.Config}} {{json .Labels}}", "mig-net"},
		"db": {"inspect", "-f", "{{json .HostConfig.RestartPolicy}} {{json .Config.Env}} {{json .Config.Cmd}} {{.State.Running}} {{.Config.Image}} " +
			"{{(index .NetworkSettings.Networks \"mig-net\").IPAddress}} {{range .Mounts}}{{.Name}} {{.Destination}} {{.RW}}{{end}}", "mig-db"},
		"web":       {"inspect", "-f", "{{json .HostConfig.RestartPolicy}} {{.State.Running}} {{.Config.Image}} {{range .Mounts}}{{.Name}} {{.Destination}} {{.RW}}{{end}}", "mig-web"},
		"the alias": {"run", "--rm", "--network", "mig-net", "busybox", "sh", "-c", "nslookup db | grep 10.77.0.9"},
		"helpers":   {"ps", "-aq", "--filter", "label=dev.hyve.migrate"},
		"and image": {"images", "-q", "hyve-migrate"},
	} {
		want, got := dock(t, shared, args...), dock(t, to, args...)
		if got != want {
			t.Errorf("%s: here it is\n%s, there it was\n%s", what, got, want)
		}
		if left := strings.HasPrefix(args[0], "ps") || args[0] == "images"; left != (got == "") {
			t.Errorf("%s: %q", what, got)
		}
	}

	// What is taken stays as it is, and is told of.
	dock(t, to, "rm", "-f", "mig-web", "mig-db")
	dock(t, to, "volume", "rm", "mig-data")
	dock(t, to, "run", "--rm", "-v", "mig-data:/data", "busybox", "sh", "-c", "echo mine > /data/mine")
	if _, text, code = migrate(); code != 1 || !strings.Contains(text, "volume mig-data: the machine has a volume of this name with something else in it") ||
		!strings.Contains(text, "container mig-db: its volume mig-data is not in the machine") || !strings.Contains(text, "2 things could not be copied") {
		t.Errorf("with another volume there: exit status %d: %s", code, text)
	}
	if out := dock(t, to, "run", "--rm", "-v", "mig-data:/data", "busybox", "cat", "/data/mine"); out != "mine\n" {
		t.Errorf("the volume holds %q", out)
	}
}

// A context with TLS is an engine like others.
func TestMigrateOverTLS(t *testing.T) {
	pem := func(name string) string { return filepath.Join(home, "machines", shared, name) }
	stdout(t, docker, "context", "create", "by-tls", "--docker", "host="+statusOf(t, shared).Endpoints.TCP+",ca="+pem("ca.pem")+",cert="+pem("cert.pem")+",key="+pem("key.pem"))
	t.Cleanup(func() { try(limit, docker, "context", "rm", "by-tls") })
	_, text, code := result(t, binary, "migrate", "--from", "by-tls", shared)
	if code != 1 || !strings.Contains(text, "both are the same engine") {
		t.Errorf("exit status %d: %s", code, text)
	}
}

// A machine's disk that is full is told of in a line, and what has arrived stays.
func TestMigrateOntoAFullDisk(t *testing.T) {
	takesLong(t)
	const to = "fullup"
	create(t, to, "--disk", "2GiB")
	t.Cleanup(func() { try(limit, docker, "--context", "hyve-"+shared, "volume", "rm", "mig-small", "mig-xlarge") })
	dock(t, shared, "run", "--rm", "-v", "mig-small:/a", "-v", "mig-xlarge:/b", "busybox", "sh", "-c", "echo a > /a/a; for n in 1 2; do dd if=/dev/urandom of=/b/$n bs=1M count=15; done")
	dock(t, to, "run", "--rm", "-v", "filler:/f", "busybox", "sh", "-c",
		"free=$(df -m /f | tail -1 | awk '{print $4}'); dd if=/dev/zero of=/f/f bs=1M count=$((free - 20))")
	args := []string{"migrate", "--from", "hyve-" + shared, to, "--volumes", "mig-*"}
	_, text, code := result(t, binary, args...)
	if code != 1 || !strings.Contains(text, "copying volume mig-xlarge: the machine's disk is full") || !strings.Contains(text, "make room in the machine") {
		t.Errorf("exit status %d: %s", code, text)
	}
	dock(t, to, "volume", "rm", "filler")
	if _, text, code = result(t, binary, args...); code != 0 || !strings.Contains(text, `1 volume copied to machine "fullup"; 1 were there`) {
		t.Errorf("with room: exit status %d: %s", code, text)
	}
	const sums = "cd /b && md5sum *"
	if want, got := dock(t, shared, "run", "--rm", "-v", "mig-xlarge:/b", "busybox", "sh", "-c", sums),
		dock(t, to, "run", "--rm", "-v", "mig-xlarge:/b", "busybox", "sh", "-c", sums); got != want {
		t.Errorf("the volume holds\n%s, want\n%s", got, want)
	}
}
