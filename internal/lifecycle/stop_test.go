package lifecycle

import (
	"context"
	"errors"
	"os"
	"testing"

	"github.com/hyve-vm/hyve/internal/control"
	"github.com/hyve-vm/hyve/internal/frozen"
	"github.com/hyve-vm/hyve/internal/machine"
)

// A machine that is stopped cold boots next, also if it was frozen before. One that is
// suspended keeps its containers.
func TestStopFrozenCold(t *testing.T) {
	for _, suspended := range []bool{false, true} {
		dir := machine.Dir(t.TempDir())
		if err := os.WriteFile(dir.Disk(), nil, 0o600); err != nil {
			t.Fatal(err)
		}
		draft, err := frozen.New(dir.Frozen(), 1<<20)
		if err != nil {
			t.Fatal(err)
		}
		draft.Suspended = suspended
		if err := errors.Join(os.WriteFile(draft.Devices(), nil, 0o600), draft.Commit("shape", dir.Disk())); err != nil {
			t.Fatal(err)
		}
		stop := func(cold bool) error {
			return Stop(context.Background(), dir, "m", cold, func(control.Status) {})
		}
		if err := stop(false); !errors.Is(err, ErrAlready) {
			t.Error(err)
		}
		if exists, _ := frozen.Exists(dir.Frozen()); !exists {
			t.Error("its state is gone")
		}
		err = stop(true)
		if refused := (*SuspendedError)(nil); errors.As(err, &refused) != suspended || !suspended && !errors.Is(err, ErrAlready) {
			t.Errorf("suspended %t: %v", suspended, err)
		}
		if exists, _ := frozen.Exists(dir.Frozen()); exists != suspended {
			t.Errorf("suspended %t: its state is there: %t", suspended, exists)
		}
	}
}
