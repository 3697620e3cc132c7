package dockermachine

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/hyve-vm/hyve/internal/lifecycle"
)

func (c *client) removeWord() *word {
	var force, yes bool
	f := newFlags()
	f.BoolVarP(&force, "force", "f", false, "Remove local configuration even if machine cannot be removed, also implies an automatic yes (`-y`)")
	f.BoolVar(&yes, "y", false, "Assumes automatic yes to proceed with remove, without prompting further user confirmation")
	w := &word{name: "rm", usage: "Remove a machine", description: severalNames, flags: f}
	w.run = func(ctx context.Context, args []string) error {
		if len(args) == 0 {
			c.wordHelp(w)
			return message("Error: Expected to get one or more machine names as arguments")
		}
		c.inform("About to remove %s", printable(strings.Join(args, ", ")))
		c.inform("WARNING: This action will delete both local reference and remote instance.")
		if !force && !yes {
			if sure, err := c.confirm("Are you sure?"); err != nil || !sure {
				return nil
			}
		}
		return c.removeAll(ctx, args, force)
	}
	return w
}

// removeAll removes machines one after the other. By force it always succeeds, but for
// machines that are not hyve's to remove.
func (c *client) removeAll(ctx context.Context, names []string, force bool) error {
	var failed []string
	notOurs := false
	for _, name := range names {
		err := c.remove(ctx, name, force)
		if err == nil {
			c.inform("Successfully removed %s", name)
			continue
		}
		failed = append(failed, fmt.Sprintf("Error removing host %q: %s", name, err))
		if errors.Is(err, errNotOurs) {
			notOurs = true
		} else if force {
			failed = append(failed, fmt.Sprintf("Can't remove %q", name))
		}
	}
	if len(failed) == 0 {
		return nil
	}
	all := errors.New(strings.Join(failed, "\n"))
	if force && !notOurs {
		c.complain(all)
		return nil
	}
	return all
}

// errNotOurs says that a machine is in docker-machine's own store.
var errNotOurs = errors.New("it is in docker-machine's own store, which hyve never writes: use the docker-machine that made it")

func (c *client) remove(ctx context.Context, name string, force bool) error {
	h, err := c.find(name)
	switch {
	case err != nil:
		return err
	case h.kind == foreign:
		return errNotOurs
	case h.kind == adopted:
		return disown(c.home, name)
	case h.err != nil && !force: // it may come back from a backup
		return h.err
	}
	home := c.home
	if h.machine != nil {
		home = h.machine.Home()
	}
	if err := lifecycle.Remove(ctx, home, name); err != nil {
		return err
	}
	return c.contexts().Remove(name)
}

// confirm asks. The error is io.EOF where there is no answer.
func (c *client) confirm(question string) (bool, error) {
	fmt.Fprintf(c.stdout, "%s (y/n): ", question)
	answer, err := bufio.NewReader(io.LimitReader(c.stdin, 4<<10)).ReadString('\n')
	if err != nil && answer == "" {
		return false, err
	}
	return strings.HasPrefix(strings.ToLower(strings.TrimSpace(answer)), "y"), nil
}
