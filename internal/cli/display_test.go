package cli

import (
	"errors"
	"io"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hyve-vm/hyve/internal/control"
	"github.com/hyve-vm/hyve/internal/image/build"
)

// However long its parts take, a creation prints at most ten lines off a terminal, the
// first of them soon: these, and two that introduce the machine.
func TestLinesOfACreation(t *testing.T) {
	for _, each := range []time.Duration{100 * time.Millisecond, 5 * time.Second, 5 * time.Minute} {
		synctest.Test(t, func(t *testing.T) {
			var out strings.Builder
			show := newApp(nil, nil, &out).newDisplay(false)
			follow := show.follower("m")
			began := time.Now()
			for _, stage := range []string{"Waiting for another build", "Reading the Debian archive",
				"Downloading packages", "Unpacking packages", "Writing the image"} {
				follow.Image(build.Progress{Stage: stage})
				time.Sleep(each)
				if soon := 5 * time.Second; time.Since(began) >= soon && out.Len() == 0 {
					t.Errorf("nothing is printed after %v", time.Since(began))
				}
			}
			follow.Machine(control.Status{State: control.Starting, Activity: "Preparing"})
			time.Sleep(each)
			follow.Machine(control.Status{State: control.Running})
			follow.Warn(errors.New("a mirror was passed over"))
			show.close()
			if lines := strings.Count(out.String(), "\n"); lines > 8 {
				t.Errorf("%d lines:\n%s", lines, &out)
			}
			if !strings.Contains(out.String(), "Starting m (") {
				t.Errorf("no line about the end:\n%s", &out)
			}
		})
	}
}

// Warnings of downloads that go on side by side are all printed.
func TestWarnings(t *testing.T) {
	var out strings.Builder
	show := newApp(nil, nil, &out).newDisplay(false)
	var downloads sync.WaitGroup
	for range 100 {
		downloads.Go(func() { show.follower("m").Warn(io.ErrUnexpectedEOF) })
	}
	downloads.Wait()
	show.close()
	if n := strings.Count(out.String(), "warning: unexpected EOF\n"); n != 100 {
		t.Errorf("%d of 100 warnings were printed", n)
	}
}
