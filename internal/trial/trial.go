// Package trial keeps what came of trying to thaw a machine on this host, for all of the same
// hardware and image: what cannot be thawed here is not to be frozen.
package trial

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"time"

	"github.com/google/renameio/v2"
	"golang.org/x/sys/unix"

	"github.com/hyve-vm/hyve/internal/bounded"
	"github.com/hyve-vm/hyve/internal/guestapi"
	"github.com/hyve-vm/hyve/internal/hypervisor"
	"github.com/hyve-vm/hyve/internal/machine"
)

// A Verdict is what came of a trial.
type Verdict struct {
	Works  bool          `json:"works"`
	Reason guestapi.Text `json:"reason,omitzero"` // why not
	Tested time.Time     `json:"tested"`

	Hypervisor  guestapi.Text `json:"hypervisor"` // name and version
	Accelerator guestapi.Text `json:"accelerator"`
	Kernel      guestapi.Text `json:"kernel"` // the host's
	CPUs        int           `json:"cpus"`
}

// New returns the verdict over machines like m, which failed says is a no, and why.
func New(m *machine.Machine, backend hypervisor.Backend, accel string, failed error) Verdict {
	v := Verdict{
		Works:       failed == nil,
		Tested:      time.Now().Round(0),
		Hypervisor:  guestapi.NewText(backend.Release()),
		Accelerator: guestapi.NewText(accel),
		CPUs:        m.CPUs,
	}
	if failed != nil {
		v.Reason = guestapi.NewText(failed.Error())
	}
	var host unix.Utsname
	if unix.Uname(&host) == nil {
		v.Kernel = guestapi.NewText(unix.ByteSliceToString(host.Sysname[:]) + " " + unix.ByteSliceToString(host.Release[:]))
	}
	return v
}

// Path is where the verdict over machines like m is kept, run by a hypervisor with an
// accelerator. Another version of it, another processor of the host, and where that matters
// another kernel have another path; another size of memory or disk has not.
func Path(m *machine.Machine, backend hypervisor.Backend, accel string) string {
	hardware := backend.Shape(hypervisor.Config{CPUs: m.CPUs}, accel)
	sum := sha256.Sum256([]byte(m.Image + " " + hardware))
	return m.Home().Trial(m.Image, hex.EncodeToString(sum[:16]))
}

// damaged is the verdict where nobody can read what it was: a no, which is not believed for
// long.
var damaged = Verdict{Reason: guestapi.NewText("what came of the last trial cannot be read")}

// Read returns the verdict at a path, and whether there is one.
func Read(path string) (Verdict, bool) {
	data, err := bounded.ReadFile(path, bounded.MaxDocument)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return Verdict{}, false
	case err != nil:
		return damaged, true
	}
	return parse(data), true
}

func parse(data []byte) Verdict {
	var v Verdict
	if json.Unmarshal(data, &v) != nil || v.Works != (v.Reason.String() == "") || v.Tested.IsZero() || v.CPUs <= 0 {
		return damaged
	}
	return v
}

// All returns all verdicts of a data directory, the oldest first.
func All(home machine.Home) []Verdict {
	paths, _ := home.Trials()
	var all []Verdict
	for _, path := range paths {
		if v, ok := Read(path); ok {
			all = append(all, v)
		}
	}
	slices.SortFunc(all, func(a, b Verdict) int { return a.Tested.Compare(b.Tested) })
	return all
}

// Keep writes the verdict to a path.
func (v Verdict) Keep(path string) error {
	data, err := json.Marshal(v)
	if err == nil {
		err = renameio.WriteFile(path, append(data, '\n'), 0o600)
	}
	if err != nil {
		return fmt.Errorf("keeping whether machines can be thawed: %w", err)
	}
	return nil
}

// Fresh tells whether a no is so young that nobody tries again.
func (v Verdict) Fresh() bool {
	age := time.Since(v.Tested)
	return age >= 0 && age < hypervisor.RefusalAge
}

// NoFreeze is why machines like m are not to be frozen, or thawed, with that accelerator;
// empty if they may be.
func NoFreeze(m *machine.Machine, backend hypervisor.Backend, accel hypervisor.Verdict) string {
	if !accel.Freezes() {
		return accel.NoFreeze
	}
	tried, ok := Read(Path(m, backend, accel.Name))
	switch {
	case ok:
		return tried.NoFreeze()
	case accel.OnTrial:
		return fmt.Sprintf("no thawed machine of %s was tried on this host with %s yet; hyve image build --freeze --cpus %d tries one", processors(m.CPUs), accel.Name, m.CPUs)
	}
	return ""
}

// NoFreeze is why machines are not to be frozen, empty if they may be: what cannot be
// thawed would be lost. A no counts for that until another trial says yes.
func (v Verdict) NoFreeze() string {
	if v.Works {
		return ""
	}
	return "states cannot be kept here, a thawed machine was tried: " + v.Reason.String()
}

// String says what was tried, in one line.
func (v Verdict) String() string {
	if v.CPUs == 0 {
		return "machines of some hardware"
	}
	return fmt.Sprintf("%s, %v, %v, %v", processors(v.CPUs), v.Hypervisor, v.Accelerator, v.Kernel)
}

func processors(n int) string {
	if n == 1 {
		return "1 CPU"
	}
	return fmt.Sprintf("%d CPUs", n)
}
