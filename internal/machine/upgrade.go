package machine

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/google/renameio/v2"

	"github.com/hyve-vm/hyve/internal/bounded"
	"github.com/hyve-vm/hyve/internal/hint"
)

// An Upgrade is what a machine was before it got another image, kept until its engine
// has come up with that one. It exists when its description does. Where the machine does
// not run and there is one, the engine never came up, and the machine has to go back.
type Upgrade struct {
	Image  string `json:"image"`
	Engine string `json:"engine"`

	Dir Dir `json:"-"` // with the disk, unless that is back already
}

func (d Dir) upgrade() Dir { return Dir(filepath.Join(string(d), "upgrade")) }

// upgradeFile is the description.
func (d Dir) upgradeFile() string { return filepath.Join(string(d), "upgrade.json") }

// Upgrade returns what a machine was before an upgrade that is not through, nil if there
// is none.
func (d Dir) Upgrade() (*Upgrade, error) {
	u := &Upgrade{Dir: d.upgrade()}
	data, err := bounded.ReadFile(u.Dir.upgradeFile(), bounded.MaxDocument)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err == nil {
		err = json.Unmarshal(data, u)
	}
	if err == nil && u.Image == "" {
		err = errors.New("it names no image")
	}
	if err != nil {
		return nil, hint.With(
			fmt.Errorf("reading what machine %q was before its upgrade: %w", filepath.Base(string(d)), err),
			fmt.Sprintf("to go on with the machine as it is, remove %s", u.Dir),
		)
	}
	return u, nil
}

// An UpgradeDraft is an Upgrade in the making, whose disk the caller copies.
type UpgradeDraft struct {
	draft
	machine *Machine
}

// DraftUpgrade begins an upgrade. The caller holds the machine's lock.
func (m *Machine) DraftUpgrade() (*UpgradeDraft, error) {
	d, err := newDraft(string(m.Dir()))
	if err != nil {
		return nil, fmt.Errorf("keeping machine %q as it is: %w", m.Name, err)
	}
	return &UpgradeDraft{*d, m}, nil
}

// Commit keeps what the machine was and gives it its new image, in this order: whenever
// it is cut short the machine has one of the two.
func (d *UpgradeDraft) Commit(image, engine string) error {
	m := d.machine
	data, err := json.Marshal(Upgrade{Image: m.Image, Engine: m.Engine})
	if err == nil {
		err = renameio.WriteFile(d.dir.upgradeFile(), append(data, '\n'), 0o600)
	}
	if err == nil {
		err = d.become(string(m.Dir().upgrade()))
	}
	if err == nil {
		err = syncDir(m.Dir())
	}
	if err != nil {
		return fmt.Errorf("keeping machine %q as it is: %w", m.Name, err)
	}
	return m.SetImage(image, engine)
}

// SetImage gives a machine another image with an engine, and keeps that.
func (m *Machine) SetImage(image, engine string) error {
	return m.update(func(m *Machine) error {
		m.Image, m.Engine = image, engine
		return nil
	})
}

// EndUpgrade forgets what a machine was before its upgrade: it goes on as it is.
func (d Dir) EndUpgrade() error {
	if _, err := os.Lstat(string(d.upgrade())); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	err := discard(string(d.upgrade()))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err == nil {
		err = syncDir(d) // for whoever starts the machine after a crash of the host
	}
	if err != nil {
		return fmt.Errorf("ending the upgrade of machine %q: %w", filepath.Base(string(d)), err)
	}
	return nil
}

// SweepUpgrades clears away what upgrades that were killed have left, but for an Upgrade.
func (d Dir) SweepUpgrades() { sweep(string(d)) }

func syncDir(d Dir) error {
	file, err := os.Open(string(d))
	if err != nil {
		return err
	}
	return errors.Join(file.Sync(), file.Close())
}
