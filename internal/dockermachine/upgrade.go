package dockermachine

import (
	"context"
	"errors"
	"strings"

	"github.com/hyve-vm/hyve/internal/lifecycle"
)

func (c *client) upgradeWord() *word {
	return &word{name: "upgrade", usage: "Upgrade a machine to the latest version of Docker", description: severalNames, flags: newFlags(),
		run: func(ctx context.Context, args []string) error {
			return c.each(args, func(h *host) error { return c.upgrade(ctx, h) })
		}}
}

// upgrade moves a machine to the image that this hyve makes. One that is stopped runs
// afterwards, as docker-machine has it.
func (c *client) upgrade(ctx context.Context, h *host) error {
	if err := h.mine("upgraded"); err != nil {
		return err
	}
	switch h.look(ctx).state {
	case running:
	case saved: // whose containers would be lost
		return &lifecycle.SuspendedError{Name: h.name}
	default:
		c.inform("Starting machine so machine can be upgraded...")
		if err := c.start(ctx, h); err != nil {
			return err
		}
	}
	c.inform("Upgrading docker...")
	report := &report{client: c, name: h.name}
	defer report.close()
	follow := report.follower()
	follow.Machine = silent
	done, err := lifecycle.Upgrade(ctx, h.machine, lifecycle.UpgradeOptions{Phase: func(title string) {
		if strings.HasPrefix(title, "Starting ") {
			c.inform("Restarting docker...")
		} else {
			c.inform("(%s) %s...", h.name, title)
		}
	}}, follow)
	if errors.Is(err, lifecycle.ErrAlready) {
		c.inform("(%s) docker %s is what there is", h.name, done.To)
		return nil
	}
	return err
}
