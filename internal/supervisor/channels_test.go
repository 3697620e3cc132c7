package supervisor

import (
	"context"
	"errors"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hyve-vm/hyve/internal/guestapi"
)

// A toldChannel writes down what it is told.
type toldChannel struct {
	name string
	err  error
	told *[]string
}

func (c toldChannel) quiesce(context.Context) error {
	*c.told = append(*c.told, "quiesce "+c.name)
	return c.err
}

func (c toldChannel) resume() { *c.told = append(*c.told, "resume "+c.name) }

// All channels are quiet, or none, and those go on first that others need.
func TestChannels(t *testing.T) {
	busy := errors.New("busy")
	for name, test := range map[string]struct {
		fails string
		want  []string
	}{
		"all":           {"", []string{"quiesce files", "quiesce sound", "quiesce control", "resume control", "resume sound", "resume files"}},
		"all but one":   {"control", []string{"quiesce files", "quiesce sound", "quiesce control", "resume sound", "resume files"}},
		"not the first": {"files", []string{"quiesce files"}},
	} {
		var told []string
		var all channels
		for _, channel := range []string{"files", "sound", "control"} {
			c := toldChannel{channel, nil, &told}
			if channel == test.fails {
				c.err = busy
			}
			all = append(all, c)
		}
		err := all.quiesce(t.Context())
		if (err != nil) != (test.fails != "") {
			t.Errorf("%s: %v", name, err)
		}
		if err == nil {
			all.resume()
		}
		if !slices.Equal(told, test.want) {
			t.Errorf("%s: %q", name, told)
		}
	}
}

// What is being said to a guest is said before it is frozen, or it is not frozen.
func TestQuiesceWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		g, in, _, _ := testGuest(ctx, t)
		synctest.Wait() // the greeting is over
		sent := make(chan error, 1)
		go func() { sent <- g.send(guestapi.Request{Unfreeze: &guestapi.Unfreeze{}}) }()
		synctest.Wait() // it has begun, and nobody listens
		inVain, stop := context.WithCancel(ctx)
		stop()
		if err := g.quiesce(inVain); err == nil {
			t.Error("it is quiet while it speaks")
		}
		quiet := make(chan error, 1)
		go func() { quiet <- g.quiesce(ctx) }()
		synctest.Wait()
		select {
		case <-quiet:
			t.Error("it is quiet while it speaks")
		default:
		}
		if read(t, in).Unfreeze == nil {
			t.Error("the host says something else")
		}
		if err := errors.Join(<-sent, <-quiet); err != nil {
			t.Error(err)
		}
		if err := g.send(guestapi.Request{Clock: &guestapi.Clock{}}); err == nil {
			t.Error("the host speaks")
		}
	})
}

// What was kept for a guest is said before anything newer.
func TestResumeKeepsTheOrder(t *testing.T) {
	g, in, _, _ := testGuest(t.Context(), t)
	if err := g.quiesce(t.Context()); err != nil {
		t.Fatal(err)
	}
	identity := func(name string) guestapi.Request {
		return guestapi.Request{Identity: &guestapi.Identity{Name: name}}
	}
	for _, name := range []string{"first", "second", "third", "fourth"} {
		if err := g.send(identity(name)); err != nil {
			t.Fatal(err)
		}
	}
	go g.resume()
	time.Sleep(20 * time.Millisecond) // it says the first, and nobody listens yet
	go g.send(identity("newest"))
	time.Sleep(20 * time.Millisecond)
	for _, want := range []string{"first", "second", "third", "fourth", "newest"} {
		if got := read(t, in); got.Identity == nil || got.Identity.Name != want {
			t.Errorf("the guest hears %+v, want the %s identity", got, want)
		}
	}
}
