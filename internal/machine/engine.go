package machine

import (
	"fmt"
	"os"
	"path/filepath"
)

// Engines holds one directory per engine that somebody else runs and that was adopted.
func (h Home) Engines() string { return filepath.Join(string(h), "engines") }

// Engine is the directory of the adopted engine of that name.
func (h Home) Engine(name string) string { return filepath.Join(h.Engines(), name) }

// An EngineDraft is the directory of an engine that is being adopted.
type EngineDraft struct {
	draft
	home Home
}

// DraftEngine makes a new draft, and clears away those whose makers died.
func (h Home) DraftEngine() (*EngineDraft, error) {
	if err := h.Make(); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(h.Engines(), 0o700); err != nil {
		return nil, fmt.Errorf("making the directory of the engines: %w", err)
	}
	d, err := newDraft(h.Engines())
	if err != nil {
		return nil, fmt.Errorf("making the engine's directory: %w", err)
	}
	return &EngineDraft{*d, h}, nil
}

// Commit gives the draft its name.
func (d *EngineDraft) Commit(name string) error {
	if err := d.become(d.home.Engine(name)); err != nil {
		return fmt.Errorf("keeping the engine: %w", err)
	}
	return nil
}

// RemoveEngine deletes an engine's directory, and what is left of others whose making or
// removal was cut short.
func (h Home) RemoveEngine(name string) error {
	sweep(h.Engines())
	if err := discard(h.Engine(name)); err != nil {
		return fmt.Errorf("removing engine %q: %w", name, err)
	}
	return nil
}
