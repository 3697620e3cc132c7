package cli

import (
	"context"
	"fmt"
	"io"
	"os"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/hyve-vm/hyve/internal/lifecycle"
	"github.com/hyve-vm/hyve/internal/machine"
	"github.com/hyve-vm/hyve/internal/terminal"
)

// statsInterval is the time between two lines of a machine, which is also over which
// its share of the processors is measured.
const statsInterval = time.Second

// usage is a machine in the JSON of stats.
type usage struct {
	lifecycle.Stats
	// CPUPercent of one processor, since the last measurement or for a second.
	CPUPercent float64 `json:"cpuPercent"`
}

func (a *app) statsCommand() *cobra.Command {
	var format string
	var once bool
	cmd := &cobra.Command{
		Use:   "stats [NAME...]",
		Short: "Show what machines use",
		Long: `Show what machines use, again every second: processors and memory of the host, memory
as the guest sees it, disk and frozen state, network traffic since the machine started.
Memory that is shared is so with other processes, mostly files that are cached.`,
		ValidArgsFunction: a.completeNames,
		RunE: func(cmd *cobra.Command, args []string) error {
			home, err := a.home()
			if err != nil {
				return err
			}
			return a.stats(cmd.Context(), home, args, format == "json", once)
		},
	}
	cmd.Flags().BoolVar(&once, "no-stream", false, "measure once")
	formatFlag(cmd, &format)
	return cmd
}

func (a *app) stats(ctx context.Context, home machine.Home, names []string, asJSON, once bool) error {
	out, _ := terminal.Raw(a.stdout).(*os.File)
	live := out != nil && term.IsTerminal(int(out.Fd())) && !asJSON && !once
	last, err := lifecycle.MachineStats(ctx, home, names...)
	if err != nil {
		return err
	}
	tick := time.NewTicker(statsInterval)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
		now, err := lifecycle.MachineStats(ctx, home, names...)
		if err != nil {
			return err
		}
		usages := compare(last, now)
		last = now
		switch {
		case asJSON:
			err = printJSON(a, usages)
		case live:
			fmt.Fprint(out, "\x1b[H\x1b[2J") // what follows fails as well
			fallthrough
		default:
			err = printUsages(a.stdout, usages)
		}
		if err != nil || once {
			return err
		}
	}
}

// compare adds the share of the processors since the last measurement.
func compare(last, now []lifecycle.Stats) []usage {
	before := map[string]lifecycle.Stats{}
	for _, s := range last {
		before[s.Name] = s
	}
	usages := make([]usage, len(now))
	for i, s := range now {
		usages[i].Stats = s
		if old := before[s.Name].Live; old != nil && s.Live != nil && s.Live.CPUTime >= old.CPUTime && s.Live.At.After(old.At) {
			usages[i].CPUPercent = 100 * float64(s.Live.CPUTime-old.CPUTime) / float64(s.Live.At.Sub(old.At))
		}
	}
	return usages
}

func printUsages(out io.Writer, usages []usage) error {
	w := tabwriter.NewWriter(out, 5, 1, 3, ' ', 0)
	fmt.Fprintln(w, "NAME\tSTATE\tCPU\tHOST MEMORY\tSHARED\tGUEST MEMORY\tDISK\tFROZEN\tNET IN / OUT")
	size := machine.FormatSize
	for _, u := range usages {
		live := "\t\t\t"
		traffic := ""
		if l := u.Live; l != nil {
			live = fmt.Sprintf("%.1f%%\t%s\t%s\t%s / %s", u.CPUPercent, size(l.HostMemoryOwn), size(l.HostMemoryShared),
				size(l.GuestMemoryUsed), size(l.GuestMemoryTotal))
			traffic = size(l.NetworkIn) + " / " + size(l.NetworkOut)
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s / %s\t%s\t%s\n", u.Name, stateOf(u.State, u.Asleep), live,
			size(u.DiskUsed), size(u.DiskSize), size(u.FrozenUsed), traffic)
	}
	return w.Flush()
}
