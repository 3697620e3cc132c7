package cli

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/hyve-vm/hyve/internal/control"
	"github.com/hyve-vm/hyve/internal/lifecycle"
	"github.com/hyve-vm/hyve/internal/machine"
)

// each does f for every machine named, or for the one that is meant; one that
// fails does not keep the others from it.
func (a *app) each(args []string, f func(home machine.Home, name string) error) error {
	home, err := a.home()
	if err != nil {
		return err
	}
	if len(args) == 0 {
		name, err := a.resolve(home, nil)
		if err != nil {
			return err
		}
		args = []string{name}
	}
	var failed error
	for _, name := range args {
		if err := f(home, name); err != nil {
			if failed != nil {
				a.report(failed)
			}
			failed = err
		}
	}
	return failed
}

// mustExist returns an error unless the machine exists, be it broken.
func mustExist(home machine.Home, name string) error {
	_, err := home.Load(name)
	if broken := (*machine.BrokenError)(nil); errors.As(err, &broken) {
		return nil
	}
	return err
}

// say tells the user something that is not what was asked for.
func (a *app) say(format string, args ...any) error {
	_, err := fmt.Fprintf(a.stderr, format+"\n", args...)
	return err
}

// running returns the status of a machine that must run.
func running(ctx context.Context, m *machine.Machine) (control.Status, error) {
	status, err := lifecycle.Status(ctx, m.Dir())
	switch {
	case err != nil:
		return status, err
	case status.State == control.Unresponsive:
		return status, &lifecycle.UnresponsiveError{Name: m.Name}
	case status.State != control.Running:
		return status, &notRunningError{m.Name, status.State}
	}
	return status, nil
}

type notRunningError struct {
	name  string
	state control.State
}

func (e *notRunningError) Error() string {
	return fmt.Sprintf("machine %q is not running: it is %s", e.name, strings.ToLower(string(e.state)))
}

func (e *notRunningError) Hint() string { return "start it with: hyve start " + e.name }
