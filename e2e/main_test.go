// Package e2e tests hyve as users have it: the built binary, real VMs, the real
// docker client, a real registry on loopback. The machines are booted once and
// shared.
package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/hyve-vm/hyve/e2e/testimage"
	"github.com/hyve-vm/hyve/e2e/testregistry"
	"github.com/hyve-vm/hyve/internal/image/build"
	"github.com/hyve-vm/hyve/internal/machine"
)

// Where the tests work. What takes long to make, packages and images, stays in
// .e2e from run to run; machines do not.
var (
	root     string // the checkout
	home     string // HYVE_HOME
	config   string // DOCKER_CONFIG
	registry string // http://host.docker.internal:PORT, as the guest sees it
	binary   string // hyve
	docker   string // the docker client
)

var engine = flag.String("engine", "", "the engine of the machines: stable, newest or a version (default: hyve's own)")

var long = flag.Bool("long", false, "also run slow tests of rare cases")

// What e2e/outer says, in whose VM these tests run as well.
var (
	accel    = flag.String("accel", "", "fail where anything else than this accelerator (kvm, tcg) runs a machine")
	prebuilt = flag.String("prebuilt", "", "directory of the tests' own programs, if there is no go command")
	slow     = flag.Int("slow", 1, "how many times as long as on a CI machine anything may take")
	reboot   = flag.String("reboot", "", "before, after, other, again or without: the part of TestHostReboots before the host reboots, after that, with another processor, with the old one again, and without its accelerator; machines stay")
)

// takesLong skips a test that not every commit has to pass.
func takesLong(t *testing.T) {
	t.Helper()
	if !*long {
		t.Skip("takes long: make long")
	}
}

// shared is the machine that most tests use.
const shared = "shared"

func TestMain(m *testing.M) {
	flag.Parse()
	if testing.Short() {
		fmt.Println("skipping: -short")
		return
	}
	status, err := run(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, "e2e:", err)
		status = 1
	}
	os.Exit(status)
}

func run(m *testing.M) (status int, err error) {
	if root, err = filepath.Abs(".."); err != nil {
		return 0, err
	}
	binary = filepath.Join(root, "bin", "hyve")
	if _, err := os.Stat(binary); err != nil {
		return 0, fmt.Errorf("%w: run make build first", err)
	}
	if docker, err = exec.LookPath("docker"); err != nil {
		docker = filepath.Join(root, ".deps", "docker")
	}
	home = filepath.Join(root, ".e2e")
	config, err = os.MkdirTemp("", "hyve-e2e")
	if err != nil {
		return 0, err
	}
	defer os.RemoveAll(config)
	stop, err := serveRegistry()
	if err != nil {
		return 0, err
	}
	defer stop()
	if *reboot != "" {
		return m.Run(), nil
	}
	removeMachines()
	defer removeMachines()
	if err := offeredAccelerator(); err != nil {
		return 0, err
	}
	if *engine != "" {
		img, err := testimage.Make(context.Background(), machine.Home(home), build.Engine(*engine))
		if err != nil {
			return 0, fmt.Errorf("making the image: %w", err)
		}
		fmt.Printf("with docker.io %s of %s\n", img.Manifest.Docker, img.Manifest.EngineSuite)
	}
	began := time.Now()
	out, err := try(5*time.Minute, binary, "create", shared, "--registry-mirror", registry, "--memory", "2GiB", "--timing")
	if err != nil {
		return 0, fmt.Errorf("creating the shared machine: %w", err)
	}
	fmt.Printf("shared machine after %.1fs\n%s", time.Since(began).Seconds(), out)
	if err := wantedAccelerator(shared); err != nil {
		return 0, err
	}
	return m.Run(), nil
}

// offeredAccelerator asks hyve which accelerator it will use, if it matters: without one
// it takes minutes until a machine is there to look at.
func offeredAccelerator() error {
	if *accel == "" || *accel == "tcg" {
		return nil
	}
	out, err := try(time.Minute, binary, "doctor")
	if err != nil {
		return err
	}
	for line := range strings.Lines(out) {
		if words := strings.Fields(line); len(words) > 2 && words[1] == "acceleration" && words[2] != *accel {
			return fmt.Errorf("it is not %s that would run machines: hyve doctor says %s", *accel, strings.Join(words[2:], " "))
		}
	}
	return nil
}

// wantedAccelerator looks at what runs a machine's processors, if it matters.
func wantedAccelerator(name string) error {
	if *accel == "" {
		return nil
	}
	out, err := try(time.Minute, binary, "status", "--format", "json", name)
	if err != nil {
		return err
	}
	var s status
	if err := json.Unmarshal([]byte(out), &s); err != nil {
		return err
	}
	// What hyve says is one thing, what QEMU has open is another.
	files, err := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", s.HypervisorPid))
	if err != nil {
		return err
	}
	ran := "tcg"
	for _, file := range files {
		if target, _ := os.Readlink(file); strings.HasPrefix(target, "anon_inode:kvm-vcpu") {
			ran = "kvm"
		}
	}
	if s.HypervisorPid == 0 || s.Accelerator != *accel || ran != *accel {
		return fmt.Errorf("it is not %s that ran machine %s: hyve says %s (%s), its processors are of %s", *accel, name, s.Accelerator, s.AcceleratorReason, ran)
	}
	return nil
}

func serveRegistry() (stop func(), err error) {
	handler, err := testregistry.New(filepath.Join(root, ".deps", "busybox"))
	if err != nil {
		return nil, err
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	go http.Serve(l, handler)
	registry = fmt.Sprintf("http://host.docker.internal:%d", l.Addr().(*net.TCPAddr).Port)
	return func() { l.Close() }, nil
}

func removeMachines() {
	out, err := try(time.Minute, binary, "ls", "-q")
	if err != nil {
		return
	}
	for name := range strings.FieldsSeq(out) {
		try(time.Minute, binary, "rm", "-f", name)
	}
}

// command is a command with the tests' environment.
func command(ctx context.Context, name string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Env = []string{"HYVE_HOME=" + home, "DOCKER_CONFIG=" + config, "HOME=" + config,
		"PATH=" + os.Getenv("PATH") + ":" + filepath.Dir(docker), "TERM=xterm", "LANG=C.UTF-8", "HYVE_ENGINE=" + *engine}
	cmd.WaitDelay = 5 * time.Second
	return cmd
}

// try runs a command and returns what it printed on both.
func try(timeout time.Duration, name string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), scaled(timeout))
	defer cancel()
	out, err := command(ctx, name, args...).CombinedOutput()
	if ctx.Err() != nil {
		err = fmt.Errorf("timed out after %v", scaled(timeout))
	}
	if err != nil {
		return string(out), fmt.Errorf("%s %s: %w\n%s", filepath.Base(name), strings.Join(args, " "), err, out)
	}
	return string(out), nil
}

// limit is how long one command of a test may take on a CI machine. It is generous: it is
// there to end a hang, not to time.
const limit = 2 * time.Minute

// scaled is a limit of time for the machine that this is.
func scaled(d time.Duration) time.Duration { return d * time.Duration(*slow) }

// hyve runs hyve and returns its standard output.
func hyve(t *testing.T, args ...string) string {
	t.Helper()
	return stdout(t, binary, args...)
}

// dock runs docker against a machine and returns its standard output.
func dock(t *testing.T, machine string, args ...string) string {
	t.Helper()
	return stdout(t, docker, append([]string{"--context", "hyve-" + machine}, args...)...)
}

func stdout(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, errText, code := result(t, name, args...)
	if code != 0 {
		t.Fatalf("%s %s: exit status %d\n%s%s", filepath.Base(name), strings.Join(args, " "), code, out, errText)
	}
	return out
}

// result runs a command to its end, whatever that is.
func result(t *testing.T, name string, args ...string) (out, errText string, code int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), scaled(limit))
	defer cancel()
	cmd := command(ctx, name, args...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	if exit := (*exec.ExitError)(nil); err != nil && !errors.As(err, &exit) {
		t.Fatalf("%s %s: %v", filepath.Base(name), strings.Join(args, " "), err)
	}
	if ctx.Err() != nil {
		t.Fatalf("%s %s: does not end\n%s%s", filepath.Base(name), strings.Join(args, " "), &stdout, &stderr)
	}
	return stdout.String(), stderr.String(), cmd.ProcessState.ExitCode()
}

// processors is how many a test's machine has: hyve gives none more than the host has.
var processors = strconv.Itoa(min(2, runtime.NumCPU()))

// create makes a machine for one test.
func create(t *testing.T, name string, args ...string) {
	t.Helper()
	t.Cleanup(func() {
		if t.Failed() {
			logs, _ := try(time.Minute, binary, "logs", "-n", "40", name)
			t.Logf("logs of %s:\n%s", name, logs)
		}
		try(time.Minute, binary, "rm", "-f", name)
	})
	hyve(t, append([]string{"create", name, "--registry-mirror", registry, "--memory", "1GiB", "--cpus", processors}, args...)...)
	if slices.Contains(args, "--no-start") {
		return
	}
	if err := wantedAccelerator(name); err != nil {
		t.Fatal(err)
	}
}

// eventually waits for something that is told to nobody, such as a process' end.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(scaled(limit)); !ok(); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("in vain: %s", what)
		}
	}
}
