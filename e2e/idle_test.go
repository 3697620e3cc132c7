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
	for _, step := range []struct {
		name string
		try  func(*testing.T)
	}{
		{"who only listens does not keep it awake, and misses nothing", idleListener},
		{"what runs keeps it awake, and is reachable", idleWithContainer},
		{"other words see a machine that runs", idleWords},
		{"it is stopped and started like any other", idleStops},
		{"a sleep whose state is lost costs a boot", idleStateLost},
		{"bad settings are refused", idleBadSettings},
	} {
		if !t.Run(step.name, step.try) {
			return // the next ones go on from there
		}
	}
}

func isAsleep(t *testing.T, machine string) bool {
	s := statusOf(t, machine)
	return s.Asleep && s.HypervisorPid == 0
}

func fallsAsleep(t *testing.T, machine string) {
	t.Helper()
	eventually(t, "it falls asleep", func() bool { return isAsleep(t, machine) })
	if s := statusOf(t, machine); s.State != "Running" {
		t.Errorf("it is %s", s.State)
	}
}

func staysAwake(t *testing.T, machine, why string) {
	t.Helper()
	for end := time.Now().Add(4 * time.Second); time.Now().Before(end); time.Sleep(100 * time.Millisecond) {
		if isAsleep(t, machine) {
			t.Fatalf("it fell asleep: %s", why)
		}
	}
}

func idleListener(t *testing.T) {
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

	fallsAsleep(t, "drowsy")
	if out := dock(t, "drowsy", "volume", "create", "first"); out != "first\n" {
		t.Errorf("docker says %q", out)
	}
	thaws(t, "drowsy")
	fallsAsleep(t, "drowsy")
	var clients sync.WaitGroup
	for _, args := range [][]string{{"version"}, {"volume", "create", "second"}, {"ps"}} { // over new connections
		clients.Go(func() {
			if _, err := try(limit, docker, append([]string{"--context", "hyve-drowsy"}, args...)...); err != nil {
				t.Error(err)
			}
		})
	}
	clients.Wait()
	fallsAsleep(t, "drowsy")
	if got := inGuest(t, "drowsy", "hostname"); got != "drowsy\n" { // over SSH
		t.Errorf("it calls itself %q", got)
	}
	for _, want := range []string{"volume create first", "volume create second"} {
		if !events.Scan() || events.Text() != want {
			t.Errorf("the listener heard %q, want %q", events.Text(), want)
		}
	}
}

func idleWithContainer(t *testing.T) {
	id := serveIn(t, "drowsy", "18089:80", "awake")
	staysAwake(t, "drowsy", "a container runs")
	if text := get(t, "127.0.0.1:18089"); text != "awake" {
		t.Errorf("the container says %q", text)
	}
	dock(t, "drowsy", "rm", "-f", id)
	fallsAsleep(t, "drowsy")
}

func idleWords(t *testing.T) {
	for _, word := range []string{"snapshot", "url", "ip"} {
		hyve(t, word, "drowsy")
	}
	fallsAsleep(t, "drowsy")
	hyve(t, "set", "drowsy", "idle=off")
	dock(t, "drowsy", "version")
	staysAwake(t, "drowsy", "it was told not to")
	hyve(t, "set", "drowsy", "idle=1s")
	fallsAsleep(t, "drowsy")
	log := hyve(t, "logs", "drowsy", "--service", "supervisor")
	if woken, ready := strings.Count(log, "msg=woken"), strings.Count(log, "msg=ready"); ready != woken+1 {
		t.Errorf("it woke %d times, and its engine was found ready %d times", woken, ready)
	}
}

func idleStops(t *testing.T) {
	supervisor := statusOf(t, "drowsy").PID
	hyve(t, "suspend", "drowsy")
	if s := statusOf(t, "drowsy"); s.State != "Suspended" {
		t.Errorf("it is %s", s.State)
	}
	hyve(t, "start", "drowsy")
	fallsAsleep(t, "drowsy")
	if statusOf(t, "drowsy").PID == supervisor {
		t.Error("it has the same supervisor")
	}
	hyve(t, "stop", "drowsy")
	if s := statusOf(t, "drowsy"); s.State != "Stopped" {
		t.Errorf("it is %s", s.State)
	}
	hyve(t, "start", "drowsy")
	thaws(t, "drowsy")
	fallsAsleep(t, "drowsy")
	hyve(t, "stop", "--cold", "drowsy")
	hyve(t, "start", "drowsy")
	boots(t, "drowsy", "")
	fallsAsleep(t, "drowsy")
	hyve(t, "kill", "drowsy")
	checkDisk(t, "drowsy")
}

func idleStateLost(t *testing.T) {
	hyve(t, "start", "drowsy")
	fallsAsleep(t, "drowsy")
	if err := os.Truncate(frozenDir("drowsy")+"/frozen.json", 0); err != nil {
		t.Fatal(err)
	}
	if out := dock(t, "drowsy", "volume", "ls", "-q"); out != "first\nsecond\n" {
		t.Errorf("the volumes are %q", out)
	}
	boots(t, "drowsy", "damaged")
}

func idleBadSettings(t *testing.T) {
	for _, args := range [][]string{{"set", "drowsy", "idle=soon"}, {"set", "drowsy", "idle=1ms"}, {"set", "drowsy", "colour=red"}, {"set", "drowsy"}} {
		if _, text, code := result(t, binary, args...); code == 0 || strings.Count(text, "\n") > 2 {
			t.Errorf("%v: exit status %d, %q", args, code, text)
		}
	}
}
