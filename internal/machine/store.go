package machine

import (
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/google/renameio/v2"

	"github.com/hyve-vm/hyve/internal/bounded"
	"github.com/hyve-vm/hyve/internal/hint"
)

// Machine is a machine as its file describes it.
type Machine struct {
	Spec
	ID       string     `json:"id"`       // 32 hex digits: the guest's machine-id
	EngineID string     `json:"engineID"` // a UUID, see "docker info"
	Address  netip.Addr `json:"address"`  // its own loopback address on the host
	Created  time.Time  `json:"created"`
	// Format is the version of this file's form.
	Format int `json:"format"`

	home Home
}

const format = 1

// Dir returns the machine's directory.
func (m *Machine) Dir() Dir { return m.home.Dir(m.Name) }

// Home returns the data directory that the machine is in.
func (m *Machine) Home() Home { return m.home }

// New makes a machine of a Spec: its identity is drawn here, once.
func New(h Home, spec Spec, address netip.Addr) *Machine {
	id := randomBytes(16)
	return &Machine{
		Spec:     spec,
		ID:       hex.EncodeToString(id),
		EngineID: uuid(),
		Address:  address,
		Created:  time.Now().UTC().Truncate(time.Second),
		Format:   format,
		home:     h,
	}
}

// uuid returns a random UUID (RFC 9562, version 4).
func uuid() string {
	b := randomBytes(16)
	b[6] = b[6]&0x0f | 0x40
	b[8] = b[8]&0x3f | 0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}

func randomBytes(n int) []byte {
	b := make([]byte, n)
	rand.Read(b) // never fails
	return b
}

// NotFoundError says that no machine of that name exists.
type NotFoundError struct{ Name string }

func (e *NotFoundError) Error() string { return fmt.Sprintf("machine %q does not exist", e.Name) }

// Hint says how to go on.
func (e *NotFoundError) Hint() string {
	return "hyve ls lists the machines, hyve create makes one"
}

// BrokenError says that a machine's file cannot be used.
type BrokenError struct {
	Name  string
	Cause error
}

func (e *BrokenError) Error() string { return fmt.Sprintf("machine %q is broken: %v", e.Name, e.Cause) }
func (e *BrokenError) Unwrap() error { return e.Cause }

// Hint says how to go on.
func (e *BrokenError) Hint() string {
	return fmt.Sprintf("restore the file from a backup, or remove the machine with: hyve rm -f %s", e.Name)
}

// Load reads a machine's file. The error is a *NotFoundError or *BrokenError
// where it is about that file.
func (h Home) Load(name string) (*Machine, error) {
	if err := CheckName(name); err != nil {
		return nil, err
	}
	data, err := bounded.ReadFile(h.Dir(name).Spec(), bounded.MaxDocument)
	if errors.Is(err, fs.ErrNotExist) {
		if _, err := os.Stat(string(h.Dir(name))); err == nil {
			return nil, &BrokenError{name, errors.New("its machine.json is missing")}
		}
		return nil, &NotFoundError{name}
	}
	if errors.Is(err, fs.ErrPermission) || errors.Is(err, syscall.ENOTDIR) {
		return nil, hint.With(fmt.Errorf("reading machine %q: %w", name, err), usableHome)
	}
	if err != nil {
		return nil, &BrokenError{name, err}
	}
	m := &Machine{home: h}
	if err := json.Unmarshal(data, m); err != nil {
		return nil, &BrokenError{name, fmt.Errorf("reading %s: %w", h.Dir(name).Spec(), err)}
	}
	if err := m.validate(name); err != nil {
		return nil, &BrokenError{name, fmt.Errorf("reading %s: %w", h.Dir(name).Spec(), err)}
	}
	return m, nil
}

func (m *Machine) validate(name string) error {
	switch {
	case m.Format > format:
		return fmt.Errorf("format %d is of a newer hyve; this one knows up to %d", m.Format, format)
	case m.Format < 1:
		return errors.New("it has no format number")
	case m.Name != name:
		return fmt.Errorf("it describes machine %q", m.Name)
	case m.CPUs < 1 || m.Memory < MinMemory || m.Disk < MinDisk || m.Image == "":
		return errors.New("CPUs, memory, disk or image are missing or too small")
	case len(m.ID) != 32 || !m.Address.IsLoopback():
		return errors.New("its identity is incomplete")
	}
	return nil
}

// An Entry is a machine of a listing: its file's content, or why it is broken.
type Entry struct {
	Name    string
	Machine *Machine // nil if Err is set
	Err     error
}

// List returns all machines by name. One that is broken does not hide others.
func (h Home) List() ([]Entry, error) {
	dirs, err := os.ReadDir(h.Machines())
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, hint.With(fmt.Errorf("listing the machines: %w", err), usableHome)
	}
	var entries []Entry
	for _, dir := range dirs {
		name := dir.Name()
		if !dir.IsDir() || CheckName(name) != nil {
			continue // drafts, and what is being removed
		}
		m, err := h.Load(name)
		if notFound := (*NotFoundError)(nil); errors.As(err, &notFound) {
			continue // removed meanwhile
		}
		entries = append(entries, Entry{name, m, err})
	}
	return entries, nil
}

// ExistsError says that a name is taken.
type ExistsError struct{ Name, By string }

func (e *ExistsError) Error() string {
	if e.Name == e.By {
		return fmt.Sprintf("machine %q already exists", e.Name)
	}
	return fmt.Sprintf("machine %q already exists, and %q differs from it only in case", e.By, e.Name)
}

// Hint says how to go on.
func (e *ExistsError) Hint() string {
	return fmt.Sprintf("hyve start %s starts it, hyve rm %s removes it", e.By, e.By)
}

// CheckFree returns an *ExistsError if the name, in whatever case, is taken.
func (h Home) CheckFree(name string) error {
	dirs, err := os.ReadDir(h.Machines())
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return hint.With(fmt.Errorf("listing the machines: %w", err), usableHome)
	}
	for _, dir := range dirs {
		if strings.EqualFold(dir.Name(), name) {
			return &ExistsError{name, dir.Name()}
		}
	}
	return nil
}

// A Draft is a machine in the making. No listing shows it.
type Draft struct {
	draft
	home Home
}

// Draft makes a new draft, and clears away those whose makers died.
func (h Home) Draft() (*Draft, error) {
	if err := h.Make(); err != nil {
		return nil, err
	}
	h.sweepThrowaways()
	d, err := newDraft(h.Machines())
	if err != nil {
		return nil, fmt.Errorf("making the machine's directory: %w", err)
	}
	return &Draft{*d, h}, nil
}

// Commit writes the machine's file and gives the draft its name. The error is
// an *ExistsError if the name was taken meanwhile.
func (d *Draft) Commit(m *Machine) error {
	if err := m.write(d.dir); err != nil {
		return err
	}
	unlock, err := lockFile(filepath.Join(d.home.Machines(), ".lock"), lockWait)
	if err != nil {
		return fmt.Errorf("locking the machines: %w", err)
	}
	defer unlock()
	if err := d.home.CheckFree(m.Name); err != nil {
		return err
	}
	if err := d.become(string(m.Dir())); err != nil {
		return fmt.Errorf("keeping the new machine: %w", err)
	}
	return nil
}

func (m *Machine) write(dir Dir) error {
	data, err := json.MarshalIndent(m, "", "  ")
	if err != nil {
		return fmt.Errorf("encoding machine %q: %w", m.Name, err)
	}
	if err := renameio.WriteFile(dir.Spec(), append(data, '\n'), 0o600); err != nil {
		return fmt.Errorf("writing machine %q: %w", m.Name, err)
	}
	return nil
}

// update changes a machine's file as it is now, which others may have changed since m was
// read, and m with it.
func (m *Machine) update(change func(*Machine) error) error {
	unlock, err := lockFile(filepath.Join(m.home.Machines(), ".lock"), lockWait)
	if err != nil {
		return fmt.Errorf("locking the machines: %w", err)
	}
	defer unlock()
	now, err := m.home.Load(m.Name)
	if err != nil {
		return err
	}
	before := *now
	if err := change(now); err != nil {
		return err
	}
	if !reflect.DeepEqual(before, *now) {
		if err := now.write(now.Dir()); err != nil {
			return err
		}
	}
	*m = *now
	return nil
}

// SetEngineCAs changes which other CAs there are, and keeps that. Clients hear of it at the
// machine's next start.
func (m *Machine) SetEngineCAs(cas []string) error {
	return m.update(func(m *Machine) error {
		m.EngineCAs = cas
		return nil
	})
}

// Remove deletes a machine's directory. The caller holds its lock, so that
// nothing runs in it. The name is free as soon as Remove has begun.
func (h Home) Remove(name string) error {
	dir := h.Dir(name)
	run := dir.RunDir() // depends on the path before the renaming
	if err := errors.Join(discard(string(dir)), os.RemoveAll(run)); err != nil {
		return fmt.Errorf("removing machine %q: %w", name, err)
	}
	return nil
}

// sweepThrowaways removes throw-away machines whose owners have died.
func (h Home) sweepThrowaways() {
	entries, _ := h.List()
	for _, e := range entries {
		// A new one has no owner for a moment.
		if e.Machine == nil || !e.Machine.Throwaway || time.Since(e.Machine.Created) < time.Minute {
			continue
		}
		dir := h.Dir(e.Name)
		if owned, err := held(dir.owner()); err != nil || owned {
			continue
		}
		if running, err := dir.Held(); err != nil || running {
			continue
		}
		if lock, err := dir.Acquire(); err == nil {
			h.Remove(e.Name)
			lock.Release()
		}
	}
}

// Addresses returns the addresses that machines have.
func (h Home) Addresses() ([]netip.Addr, error) {
	entries, err := h.List()
	if err != nil {
		return nil, err
	}
	var addresses []netip.Addr
	for _, e := range entries {
		if e.Machine != nil {
			addresses = append(addresses, e.Machine.Address)
		}
	}
	slices.SortFunc(addresses, netip.Addr.Compare)
	return addresses, nil
}
