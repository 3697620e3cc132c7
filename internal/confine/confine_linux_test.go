package confine

import (
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// The first thread is what others see of a process: it must not be the one that is denied
// things, for those who are denied the same may then signal and trace it.
func TestOnThread(t *testing.T) {
	for range 200 {
		OnThread(func() {
			if unix.Gettid() == unix.Getpid() {
				t.Error("it is the process' first thread")
			}
			runtime.Gosched()
		})
	}
}

// run runs a shell in place of the program, on a kernel whose Landlock is of that ABI.
func run(t *testing.T, abi int, script string, args ...string) (Level, string) {
	t.Helper()
	var out strings.Builder
	plan := Plan{
		Policy:  Policy{Read: []string{"/usr", "/bin", "/lib", "/lib64", "/etc/ld.so.cache"}},
		Command: func() *exec.Cmd { return exec.Command("/bin/sh", append([]string{"-c", script, "sh"}, args...)...) },
		older:   abi,
	}
	command := plan.Command
	plan.Command = func() *exec.Cmd {
		cmd := command()
		cmd.Stdout, cmd.Stderr = &out, &out
		return cmd
	}
	cmd, level, err := plan.Start()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		out.WriteString(err.Error())
	}
	return level, out.String()
}

// Older kernels confine less, and files all the same.
func TestOlderKernels(t *testing.T) {
	secret := t.TempDir() + "/secret"
	if err := os.WriteFile(secret, []byte("secret"), 0o600); err != nil {
		t.Fatal(err)
	}
	for abi := 1; abi <= landlockABI(); abi++ {
		level, out := run(t, abi, `cat "$1" || echo no >"$1.new" || ls /tmp || echo done $$`, secret)
		if level.Landlock != abi || strings.Contains(out, "secret\n") || !strings.Contains(out, "done") {
			t.Errorf("ABI %d: %+v, %q", abi, level, out)
		}
		// Where Landlock forbids no signals there is nobody to signal.
		if first := strings.Contains(out, "done 1\n"); level.Namespaces && first != (abi < landlockScopes) {
			t.Errorf("ABI %d: that it is the first process is %t", abi, first)
		}
	}
}

func TestGaps(t *testing.T) {
	for level, want := range map[Level]int{
		{Landlock: 6, Seccomp: true}:                   0,
		{Landlock: 1, Seccomp: true, Namespaces: true}: 0,
		{Landlock: 5, Seccomp: true}:                   1,
		{Namespaces: true, Seccomp: true}:              1,
		{}:                                             3,
	} {
		if gaps := level.Gaps(); len(gaps) != want {
			t.Errorf("%+v: %v", level, gaps)
		}
	}
}

// What is tried for doctor is what a start gets.
func TestPossible(t *testing.T) {
	level, _ := run(t, 0, "exit 0")
	if possible := Possible(); possible != level {
		t.Errorf("possible is %+v, a program gets %+v", possible, level)
	}
}

// BenchmarkStart is what confining a program costs beside starting it.
func BenchmarkStart(b *testing.B) {
	program := func() *exec.Cmd { return exec.Command("/bin/true") }
	b.Run("confined", func(b *testing.B) {
		for b.Loop() {
			cmd, _, err := Plan{Policy: Policy{Read: []string{"/usr", "/lib", "/lib64", "/bin"}}, Command: program}.Start()
			if err != nil {
				b.Fatal(err)
			}
			cmd.Wait()
		}
	})
	b.Run("free", func(b *testing.B) {
		for b.Loop() {
			program().Run()
		}
	})
}
