package supervisor

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/hyve-vm/hyve/internal/frozen"
	"github.com/hyve-vm/hyve/internal/hypervisor"
)

// frozenMachine is a directory with a disk and a frozen state of it.
func frozenMachine(t *testing.T, suspended bool) (dir, disk string) {
	t.Helper()
	base := t.TempDir()
	dir, disk = filepath.Join(base, "frozen"), filepath.Join(base, "disk.img")
	if err := os.WriteFile(disk, []byte("disk"), 0o600); err != nil {
		t.Fatal(err)
	}
	draft, err := frozen.New(dir, 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	defer draft.Discard()
	draft.Suspended = suspended
	if err := errors.Join(os.WriteFile(draft.Devices(), nil, 0o600), draft.Commit("shape", disk)); err != nil {
		t.Fatal(err)
	}
	return dir, disk
}

// The steps of a hypervisor that goes on from a frozen state.
const (
	spawned = iota // it is there
	taken          // the state is its alone
	loaded         // and in it
	going          // it has been told to let the guest go on
	steps
)

// A stop, a signal or a hypervisor's end at any step of a resume loses no suspended state:
// it is back, or its guest may have run.
func TestResumeLosesNothing(t *testing.T) {
	refused := errors.New("load of migration failed")
	for _, suspended := range []bool{true, false} {
		for step := spawned; step < steps; step++ {
			for name, test := range map[string]struct {
				err      error // of the hypervisor
				stop     bool  // by who asks for the end of the run
				kept     bool  // until the guest may have run
				bootable bool
			}{
				"stopped":            {err: context.Canceled, stop: true, kept: true},
				"killed":             {err: hypervisor.ErrKilled, kept: suspended, bootable: !suspended},
				"killed and stopped": {err: hypervisor.ErrKilled, stop: true, kept: true},
				"refused":            {err: refused, bootable: step != spawned || !suspended, kept: suspended && step == spawned},
			} {
				t.Run(fmt.Sprintf("%s at %d, suspended %t", name, step, suspended), func(t *testing.T) {
					dir, disk := frozenMachine(t, suspended)
					ctx, cancel := context.WithCancelCause(t.Context())
					defer cancel(nil)
					vm, err := resume(ctx, suspended, func() (takenState, error) {
						return frozen.Inspect(dir).Take("shape", disk)
					}, func(_ context.Context, take func() error) (*hypervisor.Instance, error) {
						if step >= taken {
							if err := take(); err != nil {
								t.Fatal(err)
							}
						}
						if test.stop {
							cancel(errStopped)
						}
						if step == going {
							return nil, errors.Join(test.err, hypervisor.ErrRan)
						}
						return nil, test.err
					})
					if vm != nil || err == nil {
						t.Fatal("it runs")
					}
					unfit := (*frozen.MisfitError)(nil)
					if want := test.bootable || step == going; errors.As(err, &unfit) != want {
						t.Errorf("that it can boot is not %t: %v", want, err)
					}
					there, _ := frozen.Exists(dir)
					if step == spawned { // it was never touched; who boots drops it
						there = there && !errors.As(err, &unfit)
					}
					if want := test.kept && step != going; there != want {
						t.Errorf("that its state is there is not %t: %v", want, err)
					}
					if left, _ := filepath.Glob(dir + ".*"); len(left) > 0 {
						t.Errorf("left: %q", left)
					}
				})
			}
		}
	}
}

// One that goes on has consumed its state, and one that has none, or none that fits, takes
// nothing.
func TestResume(t *testing.T) {
	dir, disk := frozenMachine(t, true)
	start := func(_ context.Context, take func() error) (*hypervisor.Instance, error) { return nil, take() }
	take := func() (takenState, error) { return frozen.Inspect(dir).Take("shape", disk) }
	if _, err := resume(t.Context(), true, take, start); err != nil {
		t.Error(err)
	}
	if exists, _ := frozen.Exists(dir); exists {
		t.Error("the state is still there")
	}
	if _, err := resume(t.Context(), true, take, start); !errors.Is(err, frozen.ErrNone) {
		t.Error(err)
	}
}

// victim is the variable by which a process of these tests is told to resume a machine, to
// a step at which it waits for its end: STEP DIR.
const victim = "HYVE_TEST_RESUME"

// A supervisor that is killed at any step of a resume, its hypervisor with it, leaves a
// state that the next one finds, or whose guest may have run.
func TestKilledResume(t *testing.T) {
	if order := os.Getenv(victim); order != "" {
		var step int
		var base string
		fmt.Sscan(order, &step, &base)
		resumeUntil(step, filepath.Join(base, "frozen"), filepath.Join(base, "disk.img"))
	}
	for step := spawned; step < steps; step++ {
		dir, disk := frozenMachine(t, true)
		cmd := exec.Command(os.Args[0], "-test.run=^TestKilledResume$")
		cmd.Env = append(os.Environ(), fmt.Sprintf("%s=%d %s", victim, step, filepath.Dir(dir)))
		out, err := cmd.StdoutPipe()
		if err == nil {
			err = cmd.Start()
		}
		if err != nil {
			t.Fatal(err)
		}
		if _, err := out.Read(make([]byte, 1)); err != nil {
			t.Error(err)
		}
		cmd.Process.Kill()
		cmd.Wait()
		if exists, suspended := frozen.Exists(dir); !exists || !suspended {
			t.Errorf("killed at step %d: it is seen to be suspended: %t", step, suspended)
		}
		state, err := frozen.Inspect(dir).Take("shape", disk)
		if unfit := (*frozen.MisfitError)(nil); (err == nil) != (step < going) || err != nil && !errors.As(err, &unfit) {
			t.Errorf("killed at step %d: %v", step, err)
		}
		if err == nil {
			state.Discard()
		}
	}
}

// resumeUntil says when it is at a step, and waits for ever.
func resumeUntil(step int, dir, disk string) {
	resume(context.Background(), true, func() (takenState, error) {
		return frozen.Inspect(dir).Take("shape", disk)
	}, func(_ context.Context, take func() error) (*hypervisor.Instance, error) {
		if step >= taken {
			if err := take(); err != nil {
				panic(err)
			}
		}
		if step == going { // and its guest has run
			os.WriteFile(disk, []byte("DISK"), 0o600)
		}
		os.Stdout.WriteString("!")
		for {
			time.Sleep(time.Hour)
		}
	})
}
