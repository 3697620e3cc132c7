package lifecycle

import (
	"context"
	"errors"

	"github.com/hyve-vm/hyve/internal/control"
	"github.com/hyve-vm/hyve/internal/machine"
	"github.com/hyve-vm/hyve/internal/pki"
)

// RenewServer makes a machine's key and certificate anew. One that runs, and all its
// clients from the next connection on, have them when it returns; one that does not run
// gets them at its next start.
func RenewServer(ctx context.Context, m *machine.Machine) error {
	if err := pki.DiscardServer(m.Dir().ServerDir()); err != nil {
		return err
	}
	return ifItRuns(Provision(ctx, m))
}

// RenewClient makes the user's key and certificate anew, with which all machines are
// reached. Where the CA is missing or due, that is new as well, and all machines that run
// are told.
func RenewClient(ctx context.Context, home machine.Home) error {
	ca, err := pki.OpenCA(home.PKIDir())
	if err != nil {
		return err
	}
	if err := ca.DiscardClient(); err != nil {
		return err
	}
	entries, err := home.List()
	if err != nil {
		return err
	}
	var failed error
	for _, e := range entries {
		if e.Machine == nil {
			continue
		}
		err := ca.Export(string(e.Machine.Dir()), e.Machine.EngineCAs...)
		if err == nil {
			err = ifItRuns(Provision(ctx, e.Machine))
		}
		failed = errors.Join(failed, err)
	}
	return failed
}

// Provision tells a machine that runs once more who it is: name, keys, certificates,
// registries and labels. The error is control.ErrNoAnswer if it does not run, and an
// *UnresponsiveError if its supervisor is stuck, for which nobody is to wait.
func Provision(ctx context.Context, m *machine.Machine) error {
	if err := responding(ctx, m.Dir(), m.Name); err != nil {
		return err
	}
	return control.NewClient(m.Dir().ControlSocket()).Identify(ctx)
}

func ifItRuns(err error) error {
	if errors.Is(err, control.ErrNoAnswer) {
		return nil
	}
	return err
}
