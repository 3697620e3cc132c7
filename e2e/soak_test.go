package e2e

import (
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

var soakRounds = flag.Int("soak", 4, "how often TestSoak freezes and thaws its machine")

// buildForGuest builds one of the tests' programs.
func buildForGuest(t *testing.T, name string) (path string) {
	t.Helper()
	if *prebuilt != "" {
		return filepath.Join(*prebuilt, name)
	}
	path = filepath.Join(t.TempDir(), name)
	build := exec.Command("go", "build", "-o", path, "./e2e/"+name)
	build.Dir, build.Env = root, append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return path
}

// A container that writes all the time loses nothing over many freezes and thaws, and
// neither does the file system.
func TestSoak(t *testing.T) {
	takesLong(t)
	needsFreezing(t)
	create(t, "soaked")
	dock(t, "soaked", "create", "--name", "keeper", "--restart", "always", "-v", "kept:/data", "busybox", "/keeper", "/data")
	dock(t, "soaked", "cp", buildForGuest(t, "keeper"), "keeper:/keeper")
	dock(t, "soaked", "start", "keeper")
	kept := func() int {
		t.Helper()
		n, _ := strconv.Atoi(strings.TrimSpace(dock(t, "soaked", "exec", "keeper", "tail", "-n", "1", "/data/log")))
		return n
	}
	last := 0
	for round := range *soakRounds {
		eventually(t, "it writes on", func() bool { n := kept(); defer func() { last = n }(); return n > last })
		word := []string{"stop", "suspend"}[round%2]
		hyve(t, word, "soaked")
		hyve(t, "start", "soaked")
		if s := statusOf(t, "soaked"); !s.Thawed {
			t.Errorf("round %d, after %s: it booted: %s", round, word, s.BootReason)
		}
		// A container whose program failed starts again, and says so for ever.
		if out, _, code := result(t, docker, "--context", "hyve-soaked", "exec", "keeper", "cat", "/data/failed"); code == 0 {
			t.Fatalf("round %d, after %s: %s", round, word, out)
		}
		if n := kept(); n < last {
			t.Fatalf("round %d, after %s: %d were kept, now there are %d", round, word, last, n)
		}
	}
	dock(t, "soaked", "restart", "keeper") // checks it all
	first := kept()
	eventually(t, "it writes on", func() bool { return kept() > first })
	if out, _, code := result(t, docker, "--context", "hyve-soaked", "exec", "keeper", "cat", "/data/failed"); code == 0 {
		t.Fatal(out)
	}
	fmt.Printf("soak: %d rounds, %d writes\n", *soakRounds, first)
	hyve(t, "stop", "--cold", "soaked")
	checkDisk(t, "soaked")
}
