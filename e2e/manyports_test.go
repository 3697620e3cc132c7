package e2e

import (
	"strings"
	"testing"
	"time"
)

// alone starts, in the place of hyve's dockerd, one that hyve has no part in: the same
// program with the same configuration, data and containerd, in the same VM and control
// group, but with docker's own proxy, and in a network name space of its own, where nothing
// follows what listens. Its client comes the same way, by the socket.
const alone = `
proxy=$(ls /usr/bin/docker-proxy /usr/sbin/docker-proxy /usr/libexec/docker/docker-proxy 2>/dev/null | head -n 1)
sed "s|/usr/bin/hyve-docker-proxy|$proxy|" /etc/docker/daemon.json > /run/alone.json
grep -q "\"$proxy\"" /run/alone.json || exit 3
pid=$(pgrep -x dockerd) || exit 2
tr '\0' '\n' < /proc/$pid/cmdline | sed 's|^--config-file=.*|--config-file=/run/alone.json|' > /run/alone.args
export $(tr '\0' '\n' < /proc/$pid/environ | grep -E '^(GODEBUG|PATH)=')
/etc/init.d/docker stop
echo $$ > /sys/fs/cgroup/hyve/dockerd/cgroup.procs || exit 4
setsid $(command -v unshare || echo busybox unshare) -n $(cat /run/alone.args) < /dev/null > /run/alone.log 2>&1 &
for n in $(seq 600); do docker version > /run/alone.version 2>&1 && exit 0; sleep 0.2; done
tail -n 20 /run/alone.log
exit 5
`

// A hundred published ports take no longer than twice what they take dockerd alone, in the
// same emulation.
func TestHundredPorts(t *testing.T) {
	takesLong(t)
	const name, bound = "hundred", 2
	create(t, name, "--memory", "2GiB", "--cold") // what both start anew is translated anew
	took := map[string]float64{}
	timed := func(what string, args ...string) {
		began := time.Now()
		if out, err := try(10*time.Minute, docker, append([]string{"--context", "hyve-" + name}, args...)...); err != nil {
			t.Fatalf("%s: %v\n%s", what, err, out)
		}
		took[what] = time.Since(began).Seconds()
		t.Logf("%s: %.1f s", what, took[what])
	}
	publish := func(who string) {
		dock(t, name, "run", "--rm", "-p", "19999:80", "busybox", "true") // the first of all is the slowest
		timed(who+"-start", "run", "-d", "--name", "many", "-p", "20000-20099:20000-20099", "--init", "busybox", "sleep", "1d")
		timed(who+"-remove", "rm", "-f", "many")
	}
	publish("hyve")
	if out, err := try(5*time.Minute, binary, "ssh", name, "--", "sudo sh -c '"+strings.ReplaceAll(alone, "'", `'\''`)+"'"); err != nil {
		t.Fatalf("starting dockerd alone: %v\n%s", err, out)
	}
	publish("alone")
	if ports := statusOf(t, name).Ports; len(ports) > 0 {
		t.Errorf("dockerd alone has ports on the host: %v", ports)
	}
	bounded(t, "hundred-ports-start", took["hyve-start"]/took["alone-start"], "x", bound)
	bounded(t, "hundred-ports-remove", took["hyve-remove"]/took["alone-remove"], "x", bound)
}
