package dockermachine

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/hyve-vm/hyve/internal/listing"
	"github.com/hyve-vm/hyve/internal/machinestore"
)

func (c *client) statusWord() *word {
	return &word{name: "status", usage: "Get the status of a machine", description: "Argument is a machine name.", flags: newFlags(),
		run: func(ctx context.Context, args []string) error {
			h, err := c.one(args)
			if err != nil {
				return err
			}
			c.inform("%s", h.look(ctx).state)
			return nil
		}}
}

func (c *client) ipWord() *word {
	return &word{name: "ip", usage: "Get the IP address of a machine", description: severalNames, flags: newFlags(),
		run: func(ctx context.Context, args []string) error {
			return c.each(args, func(h *host) error {
				address, err := h.address(ctx)
				if err != nil {
					return message("Error getting IP address: %w", err)
				}
				_, err = fmt.Fprintln(c.stdout, address)
				return err
			})
		}}
}

func (c *client) urlWord() *word {
	return &word{name: "url", usage: "Get the URL of a machine", description: "Argument is a machine name.", flags: newFlags(),
		run: func(ctx context.Context, args []string) error {
			h, err := c.one(args)
			if err != nil {
				return err
			}
			url, err := h.url(ctx)
			if err != nil {
				return err
			}
			_, err = fmt.Fprintln(c.stdout, url)
			return err
		}}
}

func (c *client) activeWord() *word {
	var timeout int
	f := newFlags()
	f.IntVarP(&timeout, "timeout", "t", defaultTimeout, "Timeout in seconds, default to 10s")
	return &word{name: "active", usage: "Print which machine is active", flags: f,
		run: func(ctx context.Context, args []string) error {
			if len(args) > 0 {
				return errTooMany
			}
			hosts, err := c.all()
			if err != nil {
				return message("Error getting active host: %w", err)
			}
			late := false
			for _, i := range c.items(ctx, hosts, time.Duration(timeout)*time.Second) {
				if i.ActiveHost {
					_, err := fmt.Fprintln(c.stdout, i.Name)
					return err
				}
				late = late || i.State == timedOut
			}
			if late {
				return message("Error getting active host: timeout")
			}
			return message("No active host found")
		}}
}

func (c *client) versionWord() *word {
	return &word{name: "version", usage: "Show the Docker Machine version or a machine docker version", flags: newFlags(), homeless: true,
		run: func(ctx context.Context, args []string) error {
			switch len(args) {
			case 0:
				return c.printVersion()
			case 1:
			default:
				return errExpectedOne
			}
			if c.misplaced != nil {
				return c.misplaced
			}
			h, err := c.load(args[0])
			if err != nil {
				return err
			}
			if h.kind == foreign && h.stored.DriverName != driverNone {
				return errForeign(h)
			}
			now := h.look(ctx)
			if now.version != "" && h.machine != nil {
				now = h.query(ctx, now)
			}
			if now.version == "" {
				if now.err == nil {
					now.err = errNotRunning
				}
				return message("Unable to query docker version: %s", strings.TrimPrefix(plain(now.err), "Unable to query docker version: "))
			}
			_, err = fmt.Fprintln(c.stdout, printable(now.version))
			return err
		}}
}

func (c *client) inspectWord() *word {
	var format string
	f := newFlags()
	f.StringVarP(&format, "format", "f", "", "Format the output using the given go template.")
	w := &word{name: "inspect", usage: "Inspect information about a machine", description: "Argument is a machine name.", flags: f}
	w.run = func(ctx context.Context, args []string) error {
		if len(args) > 1 {
			c.wordHelp(w)
			return errExpectedOne
		}
		h, err := c.target(args)
		if err != nil {
			return err
		}
		d, err := h.document(h.look(ctx), string(c.store))
		if err != nil {
			return err
		}
		text, err := textOf(d)
		if format != "" {
			text, err = formatted(d, format)
		}
		if err != nil {
			return err
		}
		_, err = fmt.Fprintln(c.stdout, text)
		return err
	}
	return w
}

// document is the host's config.json.
func (h *host) document(now condition, base string) (*machinestore.Host, error) {
	switch {
	case h.machine != nil && h.stored == nil:
		return documentOf(h.machine, now.status.Endpoints.SSH, base)
	case h.engine != nil:
		return h.engine.document(base)
	}
	return h.stored, nil
}

// formatted runs a template over the document.
func formatted(d *machinestore.Host, text string) (string, error) {
	layout, err := listing.ParseTemplate(text)
	if err != nil {
		return "", fmt.Errorf("template parsing error: %w", err)
	}
	fields, err := fieldsOf(d)
	if err != nil {
		return "", err
	}
	var b strings.Builder
	if err := listing.Execute(&b, layout, fields); err != nil {
		return "", err
	}
	lines := strings.Split(b.String(), "\n")
	for i, line := range lines {
		cells := strings.Split(line, "\t")
		for j, cell := range cells {
			cells[j] = printable(cell)
		}
		lines[i] = strings.Join(cells, "\t")
	}
	return strings.Join(lines, "\n"), nil
}
