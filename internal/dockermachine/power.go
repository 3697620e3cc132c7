package dockermachine

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"

	"github.com/hyve-vm/hyve/internal/control"
	"github.com/hyve-vm/hyve/internal/dockerenv"
	"github.com/hyve-vm/hyve/internal/hint"
	"github.com/hyve-vm/hyve/internal/lifecycle"
)

const severalNames = "Argument(s) are one or more machine names."

// each does the same to several machines at once. All are looked for before: if one is
// missing nothing happens.
func (c *client) each(names []string, act func(*host) error) error {
	if len(names) == 0 {
		h, err := c.target(nil)
		if err != nil {
			return err
		}
		return act(h)
	}
	hosts := make([]*host, len(names))
	var missing []string
	for i, name := range names {
		h, err := c.load(name)
		if err != nil {
			missing = append(missing, err.Error())
		}
		hosts[i] = h
	}
	if len(missing) > 0 {
		return errors.New(strings.Join(missing, "\n"))
	}
	errs := make([]error, len(hosts))
	var all sync.WaitGroup
	for i, h := range hosts {
		all.Go(func() { errs[i] = act(h) })
	}
	all.Wait()
	return errors.Join(errs...)
}

// mine returns an error for machines that hyve has no power over; deed is as "started".
func (h *host) mine(deed string) error {
	switch {
	case h.machine != nil:
		return nil
	case h.kind == foreign && h.stored.DriverName != driverNone:
		return errForeign(h)
	}
	return fmt.Errorf("hosts without a driver cannot be %s", deed)
}

func silent(control.Status) {}

// contexts is where docker's own contexts are, which hyve's machines have as well.
// docker-machine's users can do without: where there is no place for them, as under cron,
// a line says so.
func (c *client) contexts() dockerenv.Store {
	contexts, err := dockerenv.OpenStore(c.getenv, string(c.home))
	if err != nil {
		c.inform("docker's contexts are left alone: %v (hyve use NAME needs them, %s env NAME does not)", err, Name)
	}
	return contexts
}

func (c *client) startWord() *word {
	return &word{name: "start", usage: "Start a machine", description: severalNames, flags: newFlags(),
		run: func(ctx context.Context, args []string) error {
			if err := c.each(args, func(h *host) error { return c.start(ctx, h) }); err != nil {
				return err
			}
			c.inform("Started machines may have new IP addresses. You may need to re-run the `%s env` command.", Name)
			return nil
		}}
}

func (c *client) start(ctx context.Context, h *host) error {
	c.inform("Starting %q...", h.name)
	if h.machine == nil && h.mine("started") != nil && h.kind != foreign {
		return message("Machine %q is already running.", h.name)
	}
	if err := h.mine("started"); err != nil {
		return err
	}
	_, err := lifecycle.Start(ctx, h.machine, silent)
	runs := errors.Is(err, lifecycle.ErrAlready)
	if err != nil && !runs {
		return err
	}
	// A machine that runs may lack its context: its creation was killed before it made one.
	if err := lifecycle.OfferContext(c.contexts(), h.machine); err != nil {
		c.warn(err)
	}
	if runs {
		return message("Machine %q is already running.", h.name)
	}
	c.inform("Machine %q was started.", h.name)
	return c.greet(ctx, h)
}

// warn prints a warning, which docker-machine does where it informs.
func (c *client) warn(err error) {
	c.inform("%v", err)
	if way := hint.Of(err); way != "" {
		c.inform("%s", way)
	}
}

func (c *client) stopWord() *word {
	return &word{name: "stop", usage: "Stop a machine", description: severalNames, flags: newFlags(),
		run: func(ctx context.Context, args []string) error {
			return c.each(args, func(h *host) error {
				c.inform("Stopping %q...", h.name)
				if err := h.mine("stopped"); err != nil {
					return err
				}
				err := lifecycle.Stop(ctx, h.machine.Dir(), h.name, false, silent)
				return c.over(ctx, h, err, "stopped")
			})
		}}
}

func (c *client) killWord() *word {
	return &word{name: "kill", usage: "Kill a machine", description: severalNames, flags: newFlags(),
		run: func(ctx context.Context, args []string) error {
			return c.each(args, func(h *host) error {
				c.inform("Killing %q...", h.name)
				if err := h.mine("killed"); err != nil {
					return err
				}
				return c.over(ctx, h, lifecycle.Kill(ctx, h.machine.Dir(), h.name), "killed")
			})
		}}
}

// over says how a machine came to its end.
func (c *client) over(ctx context.Context, h *host, err error, deed string) error {
	if errors.Is(err, lifecycle.ErrAlready) {
		return message("Machine %q is already %s.", h.name, strings.ToLower(h.look(ctx).state))
	}
	if err == nil {
		c.inform("Machine %q was %s.", h.name, deed)
	}
	return err
}

func (c *client) restartWord() *word {
	return &word{name: "restart", usage: "Restart a machine", description: severalNames, flags: newFlags(),
		run: func(ctx context.Context, args []string) error {
			if err := c.each(args, func(h *host) error { return c.restart(ctx, h) }); err != nil {
				return err
			}
			c.inform("Restarted machines may have new IP addresses. You may need to re-run the `%s env` command.", Name)
			return nil
		}}
}

func (c *client) restart(ctx context.Context, h *host) error {
	c.inform("Restarting %q...", h.name)
	if err := h.mine("restarted"); err != nil {
		return err
	}
	through, done := lifecycle.Through(ctx, func() {
		fmt.Fprintf(c.stderr, "Interrupted: %q is started all the same. If it is not to wait for that: interrupt again, and later %s start %s\n", h.name, Name, h.name)
	})
	err := lifecycle.Stop(through, h.machine.Dir(), h.name, true, silent)
	switch {
	case errors.Is(err, lifecycle.ErrAlready):
		err = c.start(through, h)
	case err == nil:
		if _, err = lifecycle.Start(through, h.machine, silent); err == nil || errors.Is(err, lifecycle.ErrAlready) {
			err = c.greet(through, h)
		}
	}
	return cmp.Or(err, done())
}
