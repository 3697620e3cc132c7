package dockermachine

import (
	"os"
	"sync"

	"github.com/hyve-vm/hyve/internal/control"
	"github.com/hyve-vm/hyve/internal/image/build"
	"github.com/hyve-vm/hyve/internal/lifecycle"
	"github.com/hyve-vm/hyve/internal/progress"
	"github.com/hyve-vm/hyve/internal/terminal"
)

// report tells how a creation goes: a line for each stage, as drivers print them, and on
// a terminal a live one below it.
type report struct {
	client *client
	name   string

	mu       sync.Mutex
	title    string
	live     *progress.Progress // nil off terminals
	stage    *progress.Stage
	warnings []error
}

func (r *report) follower() lifecycle.Follower {
	return lifecycle.Follower{
		Image: func(p build.Progress) {
			r.mu.Lock()
			defer r.mu.Unlock()
			r.enter(p.Stage, "("+r.name+") "+p.Stage+"...")
			if r.stage != nil && p.Total > 0 {
				r.stage.Bytes(p.Done, p.Total)
			}
		},
		Machine: func(s control.Status) {
			r.mu.Lock()
			defer r.mu.Unlock()
			r.enter("Starting "+r.name, "Waiting for machine to be running, this may take a few minutes...")
			if r.stage != nil {
				r.stage.Detail(s.Activity)
			}
		},
		Warn: func(err error) {
			r.mu.Lock()
			defer r.mu.Unlock()
			r.warnings = append(r.warnings, err)
		},
	}
}

// enter prints a line when there is another stage. r.mu is held.
func (r *report) enter(title, line string) {
	if title == r.title {
		return
	}
	r.end()
	r.title = title
	r.client.inform("%s", line)
	if live := progress.New(terminal.Clean(os.Stdout)); live.Live() {
		r.live = live
		r.stage = r.live.Stage(title)
	}
}

// end takes the live line away. r.mu is held.
func (r *report) end() {
	if r.live != nil {
		r.live.Close()
		r.live, r.stage = nil, nil
	}
}

// close ends the report with the warnings that there were.
func (r *report) close() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.end()
	for _, err := range r.warnings {
		r.client.warn(err)
	}
}
