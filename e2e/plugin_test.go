package e2e

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// A machineClient is an unmodified docker-machine, its store, and the plugin on its PATH.
type machineClient struct {
	program string // its file
	env     []string
	store   string
}

// newClient builds the docker-machine whose module is e2e/clients/MODULE.
func newMachineClient(t *testing.T, module, pkg string) *machineClient {
	t.Helper()
	dir := filepath.Join(root, "e2e", "clients", module)
	program := filepath.Join(home, "clients", module)
	build := exec.CommandContext(t.Context(), "go", "build", "-mod=readonly", "-trimpath", "-ldflags=-s -w", "-o", program, pkg)
	build.Dir = dir
	build.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("building %s: %v\n%s", module, err, out)
	}
	path := t.TempDir()
	for name, target := range map[string]string{
		"docker-machine-driver-xhyve": binary, "docker-machine-driver-hyve": binary, "docker-machine": program,
	} {
		if err := os.Symlink(target, filepath.Join(path, name)); err != nil {
			t.Fatal(err)
		}
	}
	store := filepath.Join(t.TempDir(), "machine")
	env := command(t.Context(), "true").Env
	for i, variable := range env {
		if search, ok := strings.CutPrefix(variable, "PATH="); ok {
			env[i] = "PATH=" + path + ":" + search
		}
	}
	return &machineClient{program: program, store: store, env: append(env, "MACHINE_STORAGE_PATH="+store, "SHELL=/bin/sh")}
}

func (c *machineClient) command(ctx context.Context, args ...string) *exec.Cmd {
	cmd := command(ctx, c.program, args...)
	cmd.Env = c.env
	return cmd
}

// result runs the client to its end.
func (c *machineClient) result(t *testing.T, args ...string) (out, errText string, code int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), scaled(2*limit)) // some of it are several of hyve's words
	defer cancel()
	cmd := c.command(ctx, args...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	cmd.Run()
	if ctx.Err() != nil {
		t.Fatalf("docker-machine %s: does not end\n%s%s", strings.Join(args, " "), &stdout, &stderr)
	}
	return stdout.String(), stderr.String(), cmd.ProcessState.ExitCode()
}

// run runs the client, which must succeed, and returns its standard output.
func (c *machineClient) run(t *testing.T, args ...string) string {
	t.Helper()
	out, errText, code := c.result(t, args...)
	if code != 0 {
		t.Fatalf("docker-machine %s: exit status %d\n%s%s", strings.Join(args, " "), code, out, errText)
	}
	return out
}

// shell runs a script in which docker-machine is the client.
func (c *machineClient) shell(t *testing.T, script string) string {
	t.Helper()
	cmd := command(t.Context(), "sh", "-ec", script)
	cmd.Env = c.env
	var errText bytes.Buffer
	cmd.Stderr = &errText
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s: %v\n%s%s", script, err, out, &errText)
	}
	return string(out)
}

// remove removes machines, whatever a test has left of them.
func (c *machineClient) remove(t *testing.T, names ...string) {
	t.Cleanup(func() {
		for _, name := range names {
			if t.Failed() {
				logs, _ := try(time.Minute, binary, "logs", "-n", "40", name)
				t.Logf("logs of %s:\n%s", name, logs)
			}
			try(time.Minute, binary, "rm", "-f", name)
		}
	})
}

// Today's docker-machine, and the last one of Docker's.
func rancherMachine(t *testing.T) *machineClient {
	return newMachineClient(t, "rancher-machine", "github.com/rancher/machine/cmd/rancher-machine")
}

func dockerMachine(t *testing.T) *machineClient {
	return newMachineClient(t, "docker-machine", "github.com/docker/machine/cmd/docker-machine")
}

// The transcript of 2016, by today's docker-machine and the plugin; then its other words.
func TestRealDockerMachine(t *testing.T) { testRealDockerMachine(t, rancherMachine(t)) }

func TestDockerMachineOf2019(t *testing.T) {
	takesLong(t)
	testRealDockerMachine(t, dockerMachine(t))
}

func testRealDockerMachine(t *testing.T, c *machineClient) {
	c.remove(t, "dockerhost")
	out := c.run(t, "create", "dockerhost", "--driver", "xhyve", "--xhyve-memory-size", "1024", "--xhyve-cpu-count", "2", "--xhyve-qcow2",
		"--engine-registry-mirror", registry, "--engine-label", "from=2016", "--engine-env", "FROM=docker-machine", "--tls-san", "docker.test")
	for _, want := range []string{"(dockerhost) --xhyve-qcow2 is ignored: ", "Provisioning with boot2docker...\n", "Docker is up and running!\n"} {
		if !strings.Contains(out, want) {
			t.Errorf("create said %s, without %q", out, want)
		}
	}
	if out := c.shell(t, `eval "$(docker-machine env dockerhost)"; docker run --rm busybox echo 'plop!'`); out != "plop!\n" {
		t.Errorf("printed %q", out)
	}
	checkWords(t, c, strings.TrimSpace(hyve(t, "ip", "dockerhost")), strings.TrimSpace(hyve(t, "url", "dockerhost")))

	// Certificates and profile of the client's survive whatever the machine does.
	usable := func(after string) {
		t.Helper()
		out := c.shell(t, `eval "$(docker-machine env dockerhost)"; docker info -f '{{.Labels}}'`)
		if !strings.Contains(out, "from=2016") || !strings.Contains(out, "provider=xhyve") {
			t.Errorf("after %s: labels %q", after, out)
		}
	}
	usable("create")
	c.run(t, "stop", "dockerhost")
	if state := statusOf(t, "dockerhost"); state.State != "Stopped" {
		t.Errorf("after stop the machine is %+v", state)
	}
	for args, want := range map[string]string{"status": "Stopped\n", "ls -f {{.Name}},{{.State}},{{.Error}}": "dockerhost,Stopped,\n"} {
		words := strings.Fields(args)
		if args == "status" {
			words = append(words, "dockerhost")
		}
		if out := c.run(t, words...); out != want {
			t.Errorf("%s: %q, want %q", args, out, want)
		}
	}
	if _, errText, code := c.result(t, "url", "dockerhost"); code != 1 || errText != "Host is not running\n" {
		t.Errorf("url of a stopped machine: %q, %d", errText, code)
	}
	c.run(t, "start", "dockerhost")
	usable("a thaw")
	hyve(t, "suspend", "dockerhost")
	if out := c.run(t, "status", "dockerhost"); out != "Saved\n" {
		t.Errorf("status of a suspended machine: %q", out)
	}
	for _, word := range []string{"stop", "kill"} { // at once, and not after three minutes
		if _, errText, code := c.result(t, word, "dockerhost"); code != 1 || !strings.Contains(errText, "hyve resume dockerhost") {
			t.Errorf("%s of a suspended machine: %d, %q", word, code, errText)
		}
	}
	c.run(t, "start", "dockerhost")
	usable("suspend and resume")
	c.run(t, "kill", "dockerhost")
	c.run(t, "restart", "dockerhost") // which starts one that is stopped
	usable("kill and a boot")
	c.run(t, "regenerate-certs", "-f", "dockerhost")
	usable("regenerate-certs")
	id := serveIn(t, "dockerhost", "18097:80", "served")
	dock(t, "dockerhost", "update", "--restart", "always", id)
	c.run(t, "provision", "dockerhost") // which stops and starts the engine
	usable("provision")
	if text := get(t, strings.TrimSpace(hyve(t, "ip", "dockerhost"))+":18097"); text != "served" {
		t.Errorf("after provision the container serves %q", text)
	}

	// Nobody else has one: the client's certificates came beside hyve's own.
	address := strings.TrimPrefix(strings.TrimSpace(hyve(t, "url", "dockerhost")), "tcp://")
	stranger := &http.Client{Timeout: 20 * time.Second, Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}}
	for _, scheme := range []string{"https://", "http://"} {
		if answer, err := stranger.Get(scheme + address + "/version"); err == nil {
			body, _ := io.ReadAll(answer.Body)
			answer.Body.Close()
			t.Errorf("%s without a certificate: %s, %s", scheme, answer.Status, body)
		}
	}
	// Clients of hyve's own CA still have their door, whichever certificate they are shown.
	if out := stdout(t, "sh", "-ec", `eval "$(`+binary+` env --shell sh dockerhost)"; docker version -f '{{.Server.Os}}'`); out != "linux\n" {
		t.Errorf("by hyve env: %q", out)
	}
	if out := dock(t, "dockerhost", "version", "-f", "{{.Server.Os}}"); out != "linux\n" {
		t.Errorf("hyve's own context: %q", out)
	}
	c.run(t, "rm", "-y", "dockerhost")
	if out := hyve(t, "ls", "-q"); strings.Contains(out, "dockerhost") {
		t.Errorf("after rm hyve lists %s", out)
	}
	if out := c.run(t, "ls", "-q"); out != "" {
		t.Errorf("after rm docker-machine lists %q", out)
	}
}

// checkWords runs the words that change nothing, on a running machine "dockerhost".
func checkWords(t *testing.T, c *machineClient, ip, url string) {
	t.Helper()
	for args, want := range map[string]string{
		"ip dockerhost":     ip + "\n",
		"url dockerhost":    url + "\n",
		"status dockerhost": "Running\n",
		"ls -f {{.Name}},{{.DriverName}},{{.State}},{{.URL}},{{.Error}}": "dockerhost,xhyve,Running," + url + ",\n",
		"ssh dockerhost hostname":                              "dockerhost\n",
		"inspect -f {{.Driver.IPAddress}} dockerhost":          ip + "\n",
		"inspect -f {{.Driver.Memory}} dockerhost":             "1024\n",
		"ssh dockerhost cat /var/lib/boot2docker/etc/hostname": "dockerhost\n",
	} {
		if out := c.run(t, strings.Fields(args)...); out != want {
			t.Errorf("%s: %q, want %q", args, out, want)
		}
	}
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, []byte("carried\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	c.run(t, "scp", "-q", file, "dockerhost:/tmp/there")
	c.run(t, "scp", "-q", "dockerhost:/tmp/there", file+".back")
	if back, err := os.ReadFile(file + ".back"); err != nil || string(back) != "carried\n" {
		t.Errorf("scp brought back %q, %v", back, err)
	}
	if env := c.run(t, "ssh", "dockerhost", "sudo cat /proc/$(cat /var/run/docker.pid)/environ"); !strings.Contains(env, "FROM=docker-machine\x00") {
		t.Errorf("the engine's environment is %q", env)
	}
	var listed []struct{ Name, State string }
	if err := json.Unmarshal([]byte(hyve(t, "ls", "--format", "json")), &listed); err != nil {
		t.Fatal(err)
	}
	found := false
	for _, m := range listed {
		found = found || m.Name == "dockerhost" && m.State == "Running"
	}
	if !found {
		t.Errorf("hyve ls shows %+v", listed)
	}
}

// hyveFlags make a machine of the shape that other tests have, too.
var hyveFlags = []string{"--driver", "hyve", "--hyve-memory-size", "1024", "--hyve-cpu-count", "2"}

// Two creations at once do not get in each other's way, and a creation whose client or
// plugin dies leaves nothing that runs on by itself, or that cannot be removed.
func TestRealDockerMachineTwice(t *testing.T) {
	c := rancherMachine(t)
	c.remove(t, "one", "two", "half")
	// Two clients that make their common CA at the same time do get in each other's way.
	c.run(t, "create", "--driver", "none", "--url", "tcp://127.0.0.1:1", "adopted")
	c.run(t, "rm", "-y", "adopted")
	var both sync.WaitGroup
	for _, name := range []string{"one", "two"} {
		both.Go(func() {
			if out, errText, code := c.result(t, append([]string{"create", name}, hyveFlags...)...); code != 0 {
				t.Errorf("create %s: %d\n%s%s", name, code, out, errText)
			}
		})
	}
	both.Wait()
	if out := c.run(t, "ls", "-f", "{{.Name}} {{.State}}"); out != "one Running\ntwo Running\n" {
		t.Errorf("listed %q", out)
	}
	c.run(t, "rm", "-y", "one", "two")

	for _, victim := range []string{"client", "plugin"} {
		cmd := c.begin(t, append([]string{"create", "half"}, hyveFlags...)...)
		eventually(t, "the machine is being made", func() bool { return hasMachine(t, "half") })
		if !kill(t, cmd, victim, 0) {
			t.Fatalf("the %s ended before it was killed", victim)
		}
		if out, errText, code := c.result(t, "rm", "-f", "half"); code != 0 {
			t.Errorf("rm -f after the %s was killed: %d\n%s%s", victim, code, out, errText)
		}
		eventually(t, "nothing is left of it", func() bool {
			return !hasMachine(t, "half") && !strings.Contains(c.run(t, "ls", "-q"), "half")
		})
	}
}

// A machine outlives the client and the plugin, whichever dies in the middle of whatever
// word, and the word works the next time.
func TestRealDockerMachineKilled(t *testing.T) {
	takesLong(t)
	c := rancherMachine(t)
	c.remove(t, "torn")
	c.run(t, append([]string{"create", "torn"}, hyveFlags...)...)
	for _, words := range [][]string{{"stop"}, {"start"}, {"restart"}, {"kill"}, {"start"}, {"regenerate-certs", "-f"}, {"provision"}, {"env"}, {"inspect"}, {"ls"}, {"ip"}, {"url"}, {"status"}} {
		for _, victim := range []string{"client", "plugin"} {
			what := fmt.Sprintf("%q whose %s was killed", words, victim)
			c.tear(t, victim, append(words, "torn")...)
			// Of a restart, which the client makes of a stop and a start, half can be missing.
			mayRest := slices.Contains([]string{"stop", "kill", "restart", "start"}, words[0])
			eventually(t, "the machine has come to rest after "+what, func() bool {
				state := statusOf(t, "torn").State
				return state == "Running" || mayRest && state == "Stopped"
			})
			if _, errText, code := c.result(t, "start", "torn"); code != 0 && !strings.Contains(errText, "already running") {
				t.Fatalf("start after %s: %d\n%s", what, code, errText)
			}
			// Half a provisioning leaves half a set of certificates, which the next one mends.
			c.run(t, "provision", "torn")
			if out := c.shell(t, `eval "$(docker-machine env torn)"; docker version -f '{{.Server.Os}}'`); out != "linux\n" {
				t.Errorf("docker version after %s: %q", what, out)
			}
		}
	}
	// A session or a copy that is torn harms neither the machine nor the next one.
	big := filepath.Join(t.TempDir(), "big")
	if err := os.WriteFile(big, make([]byte, 64<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, words := range [][]string{{"ssh", "torn", "sleep 60"}, {"scp", big, "torn:big"}} {
		for _, victim := range []string{"client", "plugin"} {
			cmd := c.begin(t, words...)
			if !kill(t, cmd, victim, time.Second) {
				t.Errorf("%q ended before its %s was killed", words, victim)
			}
			if out := c.run(t, "ssh", "torn", "echo still here"); out != "still here\n" {
				t.Errorf("ssh after a %s whose %s was killed: %q", words[0], victim, out)
			}
		}
	}
	for _, victim := range []string{"client", "plugin"} {
		if !hasMachine(t, "torn") {
			c.remove(t, "torn")
			c.run(t, append([]string{"create", "torn"}, hyveFlags...)...)
		}
		kill(t, c.begin(t, "rm", "-y", "torn"), victim, 50*time.Millisecond)
		if out, errText, code := c.result(t, "rm", "-f", "torn"); code != 0 && !strings.Contains(errText, "does not exist") {
			t.Errorf("rm -f after an rm whose %s was killed: %d\n%s%s", victim, code, out, errText)
		}
		eventually(t, "it is removed after a killed rm", func() bool { return !hasMachine(t, "torn") })
	}
}

// A restart that is interrupted, whenever that is, starts the machine all the same.
func TestInterruptedRestart(t *testing.T) {
	takesLong(t)
	const name = "interrupted"
	create(t, name)
	link := filepath.Join(t.TempDir(), "docker-machine")
	if err := os.Symlink(binary, link); err != nil {
		t.Fatal(err)
	}
	for program, signal := range map[string]os.Signal{binary: os.Interrupt, link: syscall.SIGTERM} {
		cmd := command(t.Context(), program, "restart", name)
		var errText bytes.Buffer
		cmd.Stderr = &errText
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		eventually(t, "it stops", func() bool { return statusOf(t, name).State != "Running" })
		cmd.Process.Signal(signal)
		cmd.Wait()
		lines := strings.Split(strings.TrimSpace(errText.String()), "\n")
		if cmd.ProcessState.ExitCode() != 130 || !strings.Contains(lines[0], "is started all the same") || !strings.HasSuffix(lines[len(lines)-1], ": interrupted") {
			t.Errorf("%s, %v: %v\n%s", filepath.Base(program), signal, cmd.ProcessState, &errText)
		}
		if state := statusOf(t, name).State; state != "Running" {
			t.Errorf("%s, %v: the machine is %s", filepath.Base(program), signal, state)
		}
	}
}

// begin starts the client.
func (c *machineClient) begin(t *testing.T, args ...string) *exec.Cmd {
	t.Helper()
	cmd := c.command(context.WithoutCancel(t.Context()), args...)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	return cmd
}

// tear begins a word until its client or plugin could be killed in the middle of it.
func (c *machineClient) tear(t *testing.T, victim string, words ...string) {
	t.Helper()
	for attempt := range 10 {
		// Whatever moment that is; those that are over before are killed as they begin.
		moment := 500 * time.Millisecond >> (2 * attempt)
		if words[0] == "start" {
			try(limit, binary, "stop", words[len(words)-1]) // or there is nothing to start
		}
		if kill(t, c.begin(t, words...), victim, moment) {
			return
		}
	}
	said := t.Logf // these change nothing, and are over in no time
	if slices.Contains([]string{"start", "stop", "restart", "kill", "regenerate-certs", "provision"}, words[0]) {
		said = t.Fatalf
	}
	said("the %s of %q always ended before it was killed", victim, words)
}

// kill kills a client, or the plugins that it has started, some time after these are there,
// and waits for the client's end. It is false if what was to be killed had ended.
func kill(t *testing.T, cmd *exec.Cmd, victim string, after time.Duration) bool {
	t.Helper()
	ended := make(chan struct{})
	go func() { cmd.Wait(); close(ended) }()
	defer func() { <-ended }()
	for len(livingChildren(cmd.Process.Pid)) == 0 {
		select {
		case <-ended:
			return false
		case <-time.After(time.Millisecond):
		}
	}
	select {
	case <-ended:
		return false
	case <-time.After(after):
	}
	if victim == "client" {
		return cmd.Process.Kill() == nil
	}
	killed := false
	for _, pid := range livingChildren(cmd.Process.Pid) {
		killed = syscall.Kill(pid, syscall.SIGKILL) == nil || killed
	}
	return killed
}

// livingChildren returns a process' children, without those that have ended. It is quick:
// some words of docker-machine's are over in a tenth of a second.
func livingChildren(parent int) (pids []int) {
	lists, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", parent))
	for _, list := range lists {
		text, _ := os.ReadFile(list)
		for _, word := range strings.Fields(string(text)) {
			stat, err := os.ReadFile("/proc/" + word + "/stat")
			_, state, _ := strings.Cut(string(stat), ") ")
			if pid, bad := strconv.Atoi(word); bad == nil && err == nil && !strings.HasPrefix(state, "Z") {
				pids = append(pids, pid)
			}
		}
	}
	return pids
}

func hasMachine(t *testing.T, name string) bool {
	t.Helper()
	return slices.Contains(strings.Fields(hyve(t, "ls", "-q")), name)
}
