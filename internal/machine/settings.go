package machine

import (
	"fmt"
	"net/url"
	"os"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"github.com/hyve-vm/hyve/internal/hint"
)

// Boot is the part of a Spec that a machine has from one boot to the next. A frozen state
// is of one of them.
type Boot struct {
	CPUs          int      `json:"cpus"`
	Memory        int64    `json:"memory"` // bytes
	Hypervisor    string   `json:"qemu,omitempty"`
	EngineOptions []string `json:"engineOptions,omitempty"`
	EngineEnv     []string `json:"engineEnv,omitempty"`
}

// Boot returns what the machine has now, or had when it last ran.
func (s *Spec) Boot() Boot {
	return Boot{CPUs: s.CPUs, Memory: s.Memory, Hypervisor: s.Hypervisor, EngineOptions: s.EngineOptions, EngineEnv: s.EngineEnv}
}

func (s *Spec) take(b Boot) {
	s.CPUs, s.Memory, s.Hypervisor, s.EngineOptions, s.EngineEnv = b.CPUs, b.Memory, b.Hypervisor, b.EngineOptions, b.EngineEnv
}

func (b Boot) equal(c Boot) bool {
	return b.CPUs == c.CPUs && b.Memory == c.Memory && b.Hypervisor == c.Hypervisor &&
		slices.Equal(b.EngineOptions, c.EngineOptions) && slices.Equal(b.EngineEnv, c.EngineEnv)
}

// Wanted is the Spec with what waits for the next start.
func (s *Spec) Wanted() Spec {
	wanted := *s
	wanted.Next = nil
	if s.Next != nil {
		wanted.take(*s.Next)
	}
	return wanted
}

// want makes wanted what the next start is to have.
func (s *Spec) want(wanted Spec) {
	now := s.Boot()
	*s = wanted
	s.take(now)
	if next := wanted.Boot(); !next.equal(now) {
		s.Next = &next
	}
}

// Settings are what can be changed of a machine; what is nil stays. A list is replaced
// as a whole.
type Settings struct {
	CPUs             *int
	Memory, Disk     *int64 // bytes
	Hypervisor, Idle *string
	HostAccess       *string
	FromHost         *string

	RegistryMirrors, InsecureRegistries, Labels, CertNames, EngineOptions, EngineEnv *[]string
}

func (c *Settings) apply(s *Spec) {
	give(&s.CPUs, c.CPUs)
	give(&s.Memory, c.Memory)
	give(&s.Disk, c.Disk)
	give(&s.Hypervisor, c.Hypervisor)
	give(&s.Idle, c.Idle)
	give(&s.HostAccess, c.HostAccess)
	give(&s.FromHost, c.FromHost)
	give(&s.RegistryMirrors, c.RegistryMirrors)
	give(&s.InsecureRegistries, c.InsecureRegistries)
	give(&s.Labels, c.Labels)
	give(&s.CertNames, c.CertNames)
	give(&s.EngineOptions, c.EngineOptions)
	give(&s.EngineEnv, c.EngineEnv)
}

func give[T any](field, value *T) {
	if value != nil {
		*field = *value
	}
}

// check returns what is wrong with the settings for a machine on a host. What is not set
// is not looked at: the host may have been a larger one.
func (c *Settings) check(m *Machine, host Host) error {
	if c.CPUs != nil {
		if err := checkCPUs(*c.CPUs, host); err != nil {
			return err
		}
	}
	if c.Memory != nil {
		if err := checkSize("memory", *c.Memory, MinMemory, host.Memory); err != nil {
			return err
		}
	}
	if c.EngineOptions != nil {
		if err := checkNotOwned(*c.EngineOptions); err != nil {
			return err
		}
	}
	if c.Disk == nil {
		return nil
	}
	now := m.Disk
	if info, err := os.Stat(m.Dir().Disk()); err == nil {
		now = max(now, info.Size())
	}
	switch {
	case *c.Disk == now, *c.Disk == m.Disk:
		return nil
	case *c.Disk < now:
		return hint.With(
			fmt.Errorf("disk of %s is smaller than the machine's of %s, and a disk only grows", FormatSize(*c.Disk), FormatSize(now)),
			fmt.Sprintf("what it does not use takes no room; to have a smaller one: hyve create NEW --disk %s, hyve migrate --from hyve-%s NEW", FormatSize(*c.Disk), m.Name),
		)
	}
	return checkSize("disk", *c.Disk, MinDisk, host.Disk)
}

// Set changes settings of a machine on a host, all of them or none, and keeps that. What
// it has from one boot to the next waits in Next. It tells whether anything is another
// than before. The error is a *ValueError where the machine cannot have what was asked for.
func (m *Machine) Set(settings Settings, host Host) (changed bool, err error) {
	err = m.update(func(m *Machine) error {
		if err := settings.check(m, host); err != nil {
			return InvalidValue(err)
		}
		wanted := m.Wanted()
		settings.apply(&wanted)
		if err := wanted.checkWords(); err != nil {
			return InvalidValue(err)
		}
		before := m.Spec
		m.want(wanted)
		changed = !reflect.DeepEqual(before, m.Spec)
		return nil
	})
	return changed, err
}

// TakeNext gives the machine what waited for its next start. The caller holds its lock,
// and there is no frozen state of what it had.
func (m *Machine) TakeNext() error {
	return m.update(func(m *Machine) error {
		m.Spec = m.Wanted()
		return nil
	})
}

// Return gives the machine what it had when a frozen state was made that is to be thawed
// again; what it has now waits for its next start.
func (m *Machine) Return(then Boot) error {
	if then.equal(m.Boot()) {
		return nil
	}
	return m.update(func(m *Machine) error {
		wanted := m.Wanted()
		m.take(then)
		m.want(wanted)
		return nil
	})
}

// A Pending setting waits for the machine's next start.
type Pending struct {
	Setting string `json:"setting"`
	Now     string `json:"now"`
	Next    string `json:"next"`
}

// Pending returns what waits for the next start. A disk waits until it is as large as it
// shall be.
func (m *Machine) Pending() []Pending {
	pending := []Pending{} // a list also in JSON
	waits := func(setting, now, next string) {
		if now != next {
			pending = append(pending, Pending{setting, now, next})
		}
	}
	if now, next := m.Boot(), m.Next; next != nil {
		waits("cpus", strconv.Itoa(now.CPUs), strconv.Itoa(next.CPUs))
		waits("memory", FormatSize(now.Memory), FormatSize(next.Memory))
		waits("qemu", now.Hypervisor, next.Hypervisor)
		waits("engine-opt", strings.Join(now.EngineOptions, ", "), strings.Join(next.EngineOptions, ", "))
		waits("engine-env", strings.Join(now.EngineEnv, ", "), strings.Join(next.EngineEnv, ", "))
	}
	if info, err := os.Stat(m.Dir().Disk()); err == nil && info.Size() < m.Disk {
		waits("disk", FormatSize(info.Size()), FormatSize(m.Disk))
	}
	return pending
}

// checkMirror is what dockerd asks of a mirror: it does not start with another.
func checkMirror(mirror string) error {
	u, err := url.Parse(mirror)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
		return fmt.Errorf("registry mirror %q is not an http:// or https:// address", mirror)
	}
	if u.User != nil || u.Path != "" && u.Path != "/" || u.RawQuery != "" || u.Fragment != "" {
		return fmt.Errorf("registry mirror %q has more than a host and a port", mirror)
	}
	return nil
}
