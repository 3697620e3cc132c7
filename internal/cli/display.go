package cli

import (
	"fmt"
	"sync"
	"text/tabwriter"
	"time"

	"github.com/hyve-vm/hyve/internal/control"
	"github.com/hyve-vm/hyve/internal/image/build"
	"github.com/hyve-vm/hyve/internal/lifecycle"
	"github.com/hyve-vm/hyve/internal/progress"
)

// display shows how a long verb goes.
type display struct {
	app    *app
	timing bool
	p      *progress.Progress

	mu    sync.Mutex
	title string
	stage *progress.Stage

	warnings []error // for the end
}

func (a *app) newDisplay(timing bool) *display {
	return &display{app: a, timing: timing, p: progress.New(a.stderr)}
}

// close ends the display. A stage that is still open has failed.
func (d *display) close() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.stage != nil {
		d.stage.Fail()
		d.stage = nil
	}
	d.p.Close()
	for _, warning := range d.warnings {
		fmt.Fprintf(d.app.stderr, "warning: %v\n", warning)
	}
	d.warnings = nil
}

// enter makes title the stage that is shown.
func (d *display) enter(title string) *progress.Stage {
	d.mu.Lock()
	defer d.mu.Unlock()
	if title != d.title || d.stage == nil {
		if d.stage != nil {
			d.stage.Done("")
		}
		d.title, d.stage = title, d.p.Stage(title)
	}
	return d.stage
}

// done ends the stage that is shown; what was done is what Stage.Done says.
func (d *display) done(what string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.stage != nil {
		d.stage.Done(what)
		d.stage = nil
	}
}

// follow shows a machine's status under a title until it runs or has stopped.
func (d *display) follow(title string) func(control.Status) {
	return func(s control.Status) {
		d.enter(title).Detail(s.Activity)
		switch {
		case s.State == control.Running:
			d.done(title)
			if d.timing {
				d.app.printTiming(s.Timing)
			}
		case s.State == control.Stopped && s.Failure == nil:
			d.done(title)
		}
	}
}

// follower shows a creation.
func (d *display) follower(name string) lifecycle.Follower {
	return lifecycle.Follower{
		Image: func(p build.Progress) {
			stage := d.enter(p.Stage)
			if p.Total > 0 {
				stage.Bytes(p.Done, p.Total)
			}
		},
		Machine: d.follow("Starting " + name),
		Warn:    d.warn,
	}
}

// warn keeps a warning for the end. Downloads that go on side by side may have some.
func (d *display) warn(err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.warnings = append(d.warnings, err)
}

// printTiming prints where a start's time went: when each step ended, and how
// long after the one before.
func (a *app) printTiming(steps []control.Step) {
	w := tabwriter.NewWriter(a.stderr, 5, 1, 3, ' ', tabwriter.AlignRight)
	last := time.Duration(0)
	for _, step := range steps {
		fmt.Fprintf(w, "%s\t+%.2fs\t%.2fs\t\n", step.Name, (step.At - last).Seconds(), step.At.Seconds())
		last = step.At
	}
	w.Flush()
}
