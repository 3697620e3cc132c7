package supervisor

import (
	"context"
	"reflect"
	"slices"
	"sync"

	"github.com/hyve-vm/hyve/internal/guestapi"
	"github.com/hyve-vm/hyve/internal/hostenv"
)

// surroundings are what the machine has of its host's settings, as they were read last.
type surroundings struct {
	host *hostenv.Host
	log  func(note string)

	read  sync.Mutex // held while they are read
	mu    sync.Mutex // not held while they are read
	parts []string
	last  *guestapi.Surroundings // nil before they are read first
}

// get returns what was read last, or reads it.
func (s *surroundings) get() guestapi.Surroundings {
	for {
		s.mu.Lock()
		last := s.last
		s.mu.Unlock()
		if last != nil {
			return *last
		}
		s.refresh()
	}
}

// refresh reads them again, and tells whether they have changed.
func (s *surroundings) refresh() (changed bool) {
	s.read.Lock()
	defer s.read.Unlock()
	for {
		s.mu.Lock()
		parts := s.parts
		s.mu.Unlock()
		now, notes := s.host.Read(parts)
		if changed, kept := s.keep(parts, now, notes); kept {
			return changed
		}
	}
}

// keep keeps what was read of those parts, unless other parts are wanted by now, and tells
// whether it has changed.
func (s *surroundings) keep(parts []string, now guestapi.Surroundings, notes []string) (changed, kept bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !slices.Equal(parts, s.parts) {
		return false, false
	}
	if s.last != nil && reflect.DeepEqual(*s.last, now) {
		return false, true
	}
	s.last = &now
	for _, note := range notes {
		s.log(note)
	}
	return true, true
}

// set changes which parts of them the machine has. It does not wait for a reading that goes
// on: the hypervisor's start would wait with it.
func (s *surroundings) set(parts []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !slices.Equal(s.parts, parts) {
		s.parts, s.last = parts, nil
	}
}

// followHost tells the guest when the host's settings change, until ctx ends.
func (s *supervisor) followHost(ctx context.Context) {
	err := s.resources.around.host.Watch(ctx, s.tellSurroundings)
	if err != nil {
		s.log.Warn("changes of the host's settings reach the machine at its next start", "cause", err)
	}
}

func (s *supervisor) tellSurroundings() {
	if !s.resources.around.refresh() {
		return
	}
	s.log.Info("the host's settings have changed")
	if err := s.tellIdentity(); err != nil {
		s.log.Warn("telling the guest of the host's settings", "cause", err)
	}
}
