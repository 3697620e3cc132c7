package dockermachine

import (
	"context"
	"time"

	"github.com/hyve-vm/hyve/internal/control"
	"github.com/hyve-vm/hyve/internal/dockerenv"
	"github.com/hyve-vm/hyve/internal/lifecycle"
)

// A condition is what a machine does now.
type condition struct {
	state   string
	url     string         // tcp://HOST:PORT, of one that runs
	version string         // of its engine, "" if that is not known
	err     error          // what there is to complain of
	status  control.Status // of one of hyve's
}

// strangers bounds how long a machine may take to answer whose driver cannot be asked.
const strangers = 2 * time.Second

// look asks a machine how it is.
func (h *host) look(ctx context.Context) condition {
	switch {
	case h.err != nil:
		return condition{state: failing, err: h.err}
	case h.machine != nil:
		return h.lookOurs(ctx)
	case h.engine != nil:
		return h.ask(ctx, condition{state: running, url: h.engine.URL})
	}
	return h.lookStored(ctx)
}

// lookStored finds out without its driver what a machine in docker-machine's store does.
func (h *host) lookStored(ctx context.Context) condition {
	url := h.storedURL()
	if h.stored.DriverName == driverNone {
		return h.ask(ctx, condition{state: running, url: url})
	}
	ctx, cancel := context.WithTimeout(ctx, strangers)
	defer cancel()
	now := condition{state: running, url: url}
	if url != "" {
		if now = h.ask(ctx, now); now.err == nil {
			return now
		}
	}
	vm, err := h.store.VM(h.stored)
	if err != nil {
		return condition{state: unknown}
	}
	switch why, err := h.store.Running(ctx, h.stored, vm); {
	case err != nil:
		return condition{state: unknown}
	case why == "":
		return condition{state: stopped}
	}
	return now
}

func (h *host) lookOurs(ctx context.Context) condition {
	status, err := lifecycle.Status(ctx, h.machine.Dir())
	if err != nil {
		return condition{state: failing, err: err}
	}
	c := condition{state: stateOf(status.State), status: status}
	switch {
	case status.State == control.Unresponsive:
		c.err = &lifecycle.UnresponsiveError{Name: h.name}
	case status.State == control.Running:
		c.url, c.version = status.Endpoints.TCP, status.EngineVersion
		if status.Failure != nil {
			c.err = status.Failure
		}
	}
	return c
}

// ask fills in what the engine itself says.
func (h *host) ask(ctx context.Context, c condition) condition {
	c.version, c.err = dockerenv.PingTLS(ctx, c.url, h.certs())
	if c.err != nil && ctx.Err() == nil {
		c.err = message("Unable to query docker version: %w", c.err)
	}
	return c
}

// query is ask for a machine of hyve's, whose supervisor knows what the engine said last.
func (h *host) query(ctx context.Context, c condition) condition {
	ctx, cancel := context.WithTimeout(ctx, checkTimeout)
	defer cancel()
	c.version, c.err = dockerenv.Ping(ctx, h.machine.Dir().DockerSocket())
	return c
}
