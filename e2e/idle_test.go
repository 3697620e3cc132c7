package e2e

import (
	"bufio"
	"context"
	"os"
	"strings"
	"sync"
	"testing"
	"time"
)

// A machine in which nothing happens falls asleep, and whatever comes for it wakes it.
func TestIdle(t *testing.T) {
	needsFreezing(t)
	create(t, "drowsy", "--idle", "2s")
	asleep := func() bool { s := statusOf(t, "drowsy"); return s.Asleep && s.HypervisorPid == 0 }
	fallsAsleep := func() {
		t.Helper()
		eventually(t, "it falls asleep", asleep)
		if s := statusOf(t, "drowsy"); s.State != "Running" {
			t.Errorf("it is %s", s.State)
		}
	}
	staysAwake := func(why string) {
		t.Helper()
		for end := time.Now().Add(4 * time.Second); time.Now().Before(end); time.Sleep(100 * time.Millisecond) {
			if asleep() {
				t.Fatalf("it fell asleep: %s", why)
			}
		}
	}

	// One that only listens does not keep it awake, and misses nothing.
	ctx, cancel := context.WithCancel(t.Context())
	listener := command(ctx, docker, "--context", "hyve-drowsy", "events", "--format", "{{.Type}} {{.Action}} {{.Actor.ID}}")
	stdout, err := listener.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := listener.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { cancel(); listener.Wait() }()
	events := bufio.NewScanner(stdout)

	fallsAsleep()
	supervisor := statusOf(t, "drowsy").PID
	if out := dock(t, "drowsy", "volume", "create", "first"); out != "first\n" {
		t.Errorf("docker says %q", out)
	}
	thaws(t, "drowsy")
	fallsAsleep()
	var clients sync.WaitGroup
	for _, args := range [][]string{{"version"}, {"volume", "create", "second"}, {"ps"}} { // over new connections
		clients.Go(func() {
			if _, err := try(limit, docker, append([]string{"--context", "hyve-drowsy"}, args...)...); err != nil {
				t.Error(err)
			}
		})
	}
	clients.Wait()
	fallsAsleep()
	if got := inGuest(t, "drowsy", "hostname"); got != "drowsy\n" { // over SSH
		t.Errorf("it calls itself %q", got)
	}
	for _, want := range []string{"volume create first", "volume create second"} {
		if !events.Scan() || events.Text() != want {
			t.Errorf("the listener heard %q, want %q", events.Text(), want)
		}
	}

	// What runs keeps it awake, and is reachable.
	id := serveIn(t, "drowsy", "18089:80", "awake")
	staysAwake("a container runs")
	if text := get(t, "127.0.0.1:18089"); text != "awake" {
		t.Errorf("the container says %q", text)
	}
	dock(t, "drowsy", "rm", "-f", id)
	fallsAsleep()

	// The other words see a machine that runs.
	for _, word := range []string{"snapshot", "url", "ip"} {
		hyve(t, word, "drowsy")
	}
	fallsAsleep()
	hyve(t, "set", "drowsy", "idle=off")
	dock(t, "drowsy", "version")
	staysAwake("it was told not to")
	hyve(t, "set", "drowsy", "idle=1s")
	fallsAsleep()
	log := hyve(t, "logs", "drowsy", "--service", "supervisor")
	if woken, ready := strings.Count(log, "msg=woken"), strings.Count(log, "msg=ready"); ready != woken+1 {
		t.Errorf("it woke %d times, and its engine was found ready %d times", woken, ready)
	}
	hyve(t, "suspend", "drowsy")
	if s := statusOf(t, "drowsy"); s.State != "Suspended" {
		t.Errorf("it is %s", s.State)
	}
	hyve(t, "start", "drowsy")
	fallsAsleep()
	if statusOf(t, "drowsy").PID == supervisor {
		t.Error("it has the same supervisor")
	}
	hyve(t, "stop", "drowsy")
	if s := statusOf(t, "drowsy"); s.State != "Stopped" {
		t.Errorf("it is %s", s.State)
	}
	hyve(t, "start", "drowsy")
	thaws(t, "drowsy")
	fallsAsleep()
	hyve(t, "stop", "--cold", "drowsy")
	hyve(t, "start", "drowsy")
	boots(t, "drowsy", "")
	fallsAsleep()
	hyve(t, "kill", "drowsy")
	checkDisk(t, "drowsy")
	// A sleep whose state is lost costs a boot.
	hyve(t, "start", "drowsy")
	fallsAsleep()
	if err := os.Truncate(frozenDir("drowsy")+"/frozen.json", 0); err != nil {
		t.Fatal(err)
	}
	if out := dock(t, "drowsy", "volume", "ls", "-q"); out != "first\nsecond\n" {
		t.Errorf("the volumes are %q", out)
	}
	boots(t, "drowsy", "damaged")

	for _, args := range [][]string{{"set", "drowsy", "idle=soon"}, {"set", "drowsy", "idle=1ms"}, {"set", "drowsy", "colour=red"}, {"set", "drowsy"}} {
		if _, text, code := result(t, binary, args...); code == 0 || strings.Count(text, "\n") > 2 {
			t.Errorf("%v: exit status %d, %q", args, code, text)
		}
	}
}
