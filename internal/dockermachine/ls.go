package dockermachine

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hyve-vm/hyve/internal/listing"
	"github.com/hyve-vm/hyve/internal/machinestore"
)

// defaultTimeout is how long machines may take to answer, in seconds.
const defaultTimeout = 10

const tableFormat = "table {{ .Name }}\t{{ .Active }}\t{{ .DriverName}}\t{{ .State }}\t{{ .URL }}\t{{ .Swarm }}\t{{ .DockerVersion }}\t{{ .Error}}"

// An item is a machine of a listing, with the fields that formats know.
type item struct {
	Name          string
	Active        string
	ActiveHost    bool
	ActiveSwarm   bool
	DriverName    string
	State         string
	URL           string
	SwarmOptions  *machinestore.SwarmOptions
	Swarm         string
	EngineOptions *machinestore.EngineOptions
	Error         string
	DockerVersion string
	ResponseTime  time.Duration
}

// heads are the columns' names.
var heads = map[string]string{
	"Name":          "NAME",
	"Active":        "ACTIVE",
	"ActiveHost":    "ACTIVE_HOST",
	"ActiveSwarm":   "ACTIVE_SWARM",
	"DriverName":    "DRIVER",
	"State":         "STATE",
	"URL":           "URL",
	"SwarmOptions":  "SWARM_OPTIONS",
	"Swarm":         "SWARM",
	"EngineOptions": "ENGINE_OPTIONS",
	"Error":         "ERRORS",
	"DockerVersion": "DOCKER",
	"ResponseTime":  "RESPONSE",
}

func (c *client) listWord() *word {
	var quiet bool
	var filters []string
	var timeout int
	var format string
	f := newFlags()
	f.BoolVarP(&quiet, "quiet", "q", false, "Enable quiet mode")
	f.StringArrayVar(&filters, "filter", nil, "Filter output based on conditions provided")
	f.IntVarP(&timeout, "timeout", "t", defaultTimeout, "Timeout in seconds, default to 10s")
	f.StringVarP(&format, "format", "f", "", "Pretty-print machines using a Go template")
	return &word{name: "ls", usage: "List machines", flags: f, run: func(ctx context.Context, _ []string) error {
		filter, err := parseFilters(filters)
		if err != nil {
			return err
		}
		hosts, err := c.all()
		if err != nil {
			return err
		}
		if quiet {
			return c.printNames(ctx, hosts, filter)
		}
		layout, err := listing.ParseLayout(cmp.Or(format, tableFormat))
		if err != nil {
			return err
		}
		items := c.items(ctx, hosts, time.Duration(timeout)*time.Second)
		items = slices.DeleteFunc(items, func(i item) bool { return !filter.Matches(i) })
		return listing.Print(c.stdout, layout, heads, items)
	}}
}

// printNames prints the names of those that are not broken, in the directory's order.
// They are asked only if it matters what they do.
func (c *client) printNames(ctx context.Context, hosts []*host, filter listing.Filter[item]) error {
	for _, h := range hosts {
		if h.err != nil {
			continue
		}
		var now condition
		if filter["state"] != nil {
			now = h.look(ctx)
		}
		if filter.Matches(c.describe(h, now)) {
			if _, err := fmt.Fprintln(c.stdout, printable(h.name)); err != nil {
				return err
			}
		}
	}
	return nil
}

// items asks machines side by side, each for so long at most, and returns what there is
// to list in natural order.
func (c *client) items(ctx context.Context, hosts []*host, timeout time.Duration) []item {
	items := make([]item, len(hosts))
	var asked sync.WaitGroup
	for i, h := range hosts {
		asked.Go(func() { items[i] = c.item(ctx, h, timeout) })
	}
	asked.Wait()
	slices.SortStableFunc(items, func(a, b item) int { return compareNatural(a.Name, b.Name) })
	return items
}

// item asks one machine.
func (c *client) item(ctx context.Context, h *host, timeout time.Duration) item {
	began := time.Now()
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	now := h.look(ctx)
	if ctx.Err() != nil && h.err == nil {
		return item{Name: printable(h.name), DriverName: printable(h.driver()), State: timedOut, ResponseTime: timeout}
	}
	i := c.describe(h, now)
	i.ResponseTime = time.Since(began).Round(time.Millisecond)
	return i
}

// describe makes an item of what is known of a machine.
func (c *client) describe(h *host, now condition) item {
	i := item{Name: printable(h.name), DriverName: printable(h.driver()), State: now.state, URL: printable(now.url)}
	if h.err != nil {
		i.Error = printable(strings.ReplaceAll(h.err.Error(), "\n", ""))
		return i
	}
	if d, err := h.document(now, string(c.store)); err == nil {
		i.EngineOptions, i.SwarmOptions = &d.HostOptions.EngineOptions, &d.HostOptions.SwarmOptions
	}
	i.Active, i.DockerVersion = "-", "Unknown"
	if now.version != "" {
		i.DockerVersion = "v" + printable(now.version)
	}
	if now.err != nil {
		i.Error = printable(plain(now.err))
	}
	if i.ActiveHost = now.state == running && now.url == c.getenv("DOCKER_HOST"); i.ActiveHost {
		i.Active = "*"
	}
	return i
}

// plain says of an engine that cannot be reached what docker-machine says.
func plain(err error) string {
	if dial := (*net.OpError)(nil); errors.As(err, &dial) && dial.Op == "dial" {
		return "Unable to query docker version: Cannot connect to the docker engine endpoint"
	}
	return err.Error()
}

// compareNatural puts m2 before m10, and minds no case.
func compareNatural(a, b string) int {
	whole := cmp.Compare(a, b)
	a, b = strings.ToLower(a), strings.ToLower(b)
	for a != "" && b != "" {
		da, db := digits(a), digits(b)
		if da > 0 && db > 0 {
			na, nb := strings.TrimLeft(a[:da], "0"), strings.TrimLeft(b[:db], "0")
			if order := cmp.Or(cmp.Compare(len(na), len(nb)), cmp.Compare(na, nb)); order != 0 {
				return order
			}
			a, b = a[da:], b[db:]
			continue
		}
		if a[0] != b[0] {
			return cmp.Compare(a[0], b[0])
		}
		a, b = a[1:], b[1:]
	}
	return cmp.Or(cmp.Compare(len(a), len(b)), whole)
}

// digits is how many of them s begins with.
func digits(s string) int {
	n := strings.IndexFunc(s, func(r rune) bool { return r < '0' || r > '9' })
	if n < 0 {
		return len(s)
	}
	return n
}
