package cli

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/hyve-vm/hyve/internal/control"
	"github.com/hyve-vm/hyve/internal/lifecycle"
	"github.com/hyve-vm/hyve/internal/listing"
	"github.com/hyve-vm/hyve/internal/machine"
)

// formatFlag adds --format, whose values are "table" and "json".
func formatFlag(cmd *cobra.Command, format *string) {
	cmd.Flags().StringVar(format, "format", "table", "`table` or json")
	cmd.PreRunE = func(cmd *cobra.Command, args []string) error {
		if *format != "table" && *format != "json" {
			return &usageError{fmt.Errorf("format %q is not known", *format), "use table or json"}
		}
		return nil
	}
}

// templateFlag adds --format, whose values are those named, the first of them by default,
// and Go templates.
func templateFlag(cmd *cobra.Command, format *string, names ...string) {
	values := strings.Join(names, ", ") + " or a Go template such as '{{.Name}}'"
	cmd.Flags().StringVarP(format, "format", "f", names[0], values)
	cmd.PreRunE = func(cmd *cobra.Command, args []string) error {
		if slices.Contains(names, *format) {
			return nil
		}
		if !strings.Contains(*format, "{{") {
			return &usageError{fmt.Errorf("format %q is not known", *format), "use " + values}
		}
		if _, err := listing.ParseLayout(*format); err != nil {
			return &usageError{fmt.Errorf("reading the format: %w", err), "see " + cmd.CommandPath() + " --help"}
		}
		return nil
	}
}

// printAs prints elements by a template.
func printAs[T any](a *app, format string, heads map[string]string, elements ...T) error {
	layout, err := listing.ParseLayout(format)
	if err != nil {
		return err
	}
	if err := listing.Print(a.stdout, layout, heads, elements); err != nil {
		return fmt.Errorf("printing by the format: %w", err)
	}
	return nil
}

// listed is a machine in the JSON of ls.
type listed struct {
	Name    string        `json:"name"`
	State   control.State `json:"state"`
	Asleep  bool          `json:"asleep,omitempty"`
	Address string        `json:"address,omitempty"`
	Docker  string        `json:"docker,omitempty"` // DOCKER_HOST for the private socket
	CPUs    int           `json:"cpus,omitempty"`
	Memory  int64         `json:"memory,omitempty"` // bytes
	Disk    int64         `json:"disk,omitempty"`   // bytes
	Engine  string        `json:"engine,omitempty"`
	Error   string        `json:"error,omitempty"`

	driver string
	labels []string
}

// listedHeads are the columns of listed in a format that begins with "table".
var listedHeads = map[string]string{
	"Name": "NAME", "State": "STATE", "Asleep": "ASLEEP", "Address": "ADDRESS", "Docker": "DOCKER", "CPUs": "CPUS",
	"Memory": "MEMORY", "Disk": "DISK", "Engine": "ENGINE", "Error": "ERROR",
}

// listedKeys are what ls --filter knows.
var listedKeys = listing.Keys[listed]{
	"name":   listing.Pattern(func(l listed) string { return l.Name }),
	"state":  listing.Equal(func(l listed) string { return stateOf(l.State, l.Asleep) }),
	"driver": listing.Equal(func(l listed) string { return l.driver }),
	"label":  listing.Label(func(l listed) []string { return l.labels }),
}

func (a *app) listCommand() *cobra.Command {
	var format string
	var quiet bool
	var filters []string
	cmd := &cobra.Command{
		Use:     "ls",
		Aliases: []string{"list"},
		Short:   "List the machines",
		Example: "  hyve ls --filter state=running -q\n  hyve ls --format 'table {{.Name}}\\t{{.Address}}'",
		Args:    noArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			filter, err := listedKeys.Parse(filters)
			if err != nil {
				return &usageError{err, "what there is: name=PATTERN, state=STATE, driver=NAME, label=KEY=VALUE"}
			}
			home, err := a.home()
			if err != nil {
				return err
			}
			overviews, err := lifecycle.List(cmd.Context(), home)
			if err != nil {
				return err
			}
			machines := []listed{}
			for _, o := range overviews {
				if l := listedOf(o); filter.Matches(l) {
					machines = append(machines, l)
				}
			}
			switch {
			case quiet:
				for _, m := range machines {
					if _, err := fmt.Fprintln(a.stdout, m.Name); err != nil {
						return err
					}
				}
				return nil
			case format == "json":
				return printJSON(a, machines)
			case format != "table":
				return printAs(a, format, listedHeads, machines...)
			}
			return a.printTable(machines)
		},
	}
	cmd.Flags().BoolVarP(&quiet, "quiet", "q", false, "print names only")
	cmd.Flags().StringArrayVar(&filters, "filter", nil, "list only machines that match `KEY=VALUE`: name, state, driver, label (repeatable)")
	templateFlag(cmd, &format, "table", "json")
	return cmd
}

func listedOf(o lifecycle.Overview) listed {
	l := listed{Name: o.Name, State: o.Status.State, Asleep: o.Status.Asleep, Engine: o.Status.EngineVersion}
	if o.Err != nil {
		l.Error = o.Err.Error()
	}
	if o.Status.State == control.Running && o.Status.Failure != nil {
		l.Error = o.Status.Failure.Cause
	}
	if m := o.Machine; m != nil {
		l.Address = m.Address.String()
		spec := m.Spec
		if o.Status.State == control.Stopped {
			spec = m.Wanted()
		}
		l.CPUs, l.Memory, l.Disk = spec.CPUs, spec.Memory, spec.Disk
		l.Docker = "unix://" + m.Dir().DockerSocket()
		l.driver, l.labels = m.Driver, m.Labels
	}
	return l
}

func (a *app) printTable(machines []listed) error {
	w := tabwriter.NewWriter(a.stdout, 5, 1, 3, ' ', 0)
	fmt.Fprintln(w, "NAME\tSTATE\tCPUS\tMEMORY\tDISK\tADDRESS\tENGINE")
	for _, m := range machines {
		if m.CPUs == 0 {
			fmt.Fprintf(w, "%s\t%s\t\t\t\t\t%s\n", m.Name, m.State, m.Error)
			continue
		}
		fmt.Fprintf(w, "%s\t%s\t%d\t%s\t%s\t%s\t%s\n", m.Name, stateOf(m.State, m.Asleep), m.CPUs,
			machine.FormatSize(m.Memory), machine.FormatSize(m.Disk), m.Address, cmp.Or(m.Error, m.Engine))
	}
	return w.Flush()
}

// stateOf is a state for people.
func stateOf(state control.State, asleep bool) string {
	if asleep {
		return "Asleep"
	}
	return string(state)
}

func (a *app) statusCommand() *cobra.Command {
	var format string
	cmd := &cobra.Command{
		Use:               "status [NAME]",
		Short:             "Tell what a machine does",
		Args:              atMostOne,
		ValidArgsFunction: a.completeNames,
		RunE: func(cmd *cobra.Command, args []string) error {
			m, err := a.load(args)
			if err != nil {
				return err
			}
			status, err := statusOf(cmd.Context(), m)
			if err != nil {
				return err
			}
			named := struct {
				Name string `json:"name"`
				control.Status
				Pending []machine.Pending `json:"pending"` // until the next start
			}{m.Name, status, m.Pending()}
			switch format {
			case "table":
				return a.printStatus(m, status)
			case "json":
				return printJSON(a, named)
			}
			return printAs(a, format, nil, named)
		},
	}
	templateFlag(cmd, &format, "table", "json")
	return cmd
}

// statusOf is a machine's status. One that is to start with other settings boots.
func statusOf(ctx context.Context, m *machine.Machine) (control.Status, error) {
	status, err := lifecycle.Status(ctx, m.Dir())
	if status.State == control.Stopped && m.Next != nil {
		status.Frozen = false
	}
	return status, err
}

func (a *app) printStatus(m *machine.Machine, s control.Status) error {
	if _, err := fmt.Fprintln(a.stdout, s.State); err != nil {
		return err
	}
	w := tabwriter.NewWriter(a.stdout, 5, 1, 3, ' ', 0)
	row := func(key, value string) {
		if value != "" {
			fmt.Fprintf(w, "%s\t%s\n", key, value)
		}
	}
	row("doing", s.Activity)
	if s.Failure != nil {
		row("failed", s.Failure.Error())
		row("what to do", s.Failure.Hint)
	}
	if s.Asleep {
		row("asleep", "until a client connects")
	}
	if s.Frozen && s.Failure == nil {
		row("frozen", "the next start is a thaw")
	}
	// One that does not answer has not said when it started.
	if s.State != control.Stopped && s.State != control.Suspended && !s.Started.IsZero() {
		accelerator := s.Accelerator
		if s.AcceleratorReason != "" {
			accelerator += " (" + s.AcceleratorReason + ")"
		}
		row("up", time.Since(s.Started).Round(time.Second).String())
		row("hypervisor", s.Hypervisor)
		row("accelerator", accelerator)
		row("begun", begun(s))
		row("engine", s.EngineVersion)
		row("docker", s.Endpoints.Docker)
		row("tls", s.Endpoints.TCP)
		row("ssh", s.Endpoints.SSH)
	}
	for _, p := range m.Pending() {
		row("at the next start", p.Setting+" "+describePending(p))
	}
	for _, p := range s.Ports {
		row("port", fmt.Sprintf("%s:%d/%s", p.Address, p.Port, p.Protocol))
	}
	for _, p := range s.Problems {
		row("problem", p)
	}
	return w.Flush()
}

// begun says how the machine came up.
func begun(s control.Status) string {
	switch {
	case s.MemoryShared:
		return "thawed, sharing memory"
	case s.Thawed:
		return "thawed, from a copy of the memory"
	case s.BootReason != "":
		return "booted: " + s.BootReason
	}
	return "booted"
}

func (a *app) inspectCommand() *cobra.Command {
	var format string
	cmd := &cobra.Command{
		Use:               "inspect [NAME]",
		Short:             "Print everything about a machine as JSON",
		Args:              atMostOne,
		ValidArgsFunction: a.completeNames,
		RunE: func(cmd *cobra.Command, args []string) error {
			m, err := a.load(args)
			if err != nil {
				return err
			}
			status, err := statusOf(cmd.Context(), m)
			if err != nil {
				return err
			}
			everything := struct {
				*machine.Machine
				Directory string         `json:"directory"`
				Status    control.Status `json:"status"`
			}{m, string(m.Dir()), status}
			if format == "json" {
				return printJSON(a, everything)
			}
			return printAs(a, format, nil, everything)
		},
	}
	templateFlag(cmd, &format, "json")
	return cmd
}

func (a *app) ipCommand() *cobra.Command {
	return a.endpointCommand("ip", "Print the address at which a machine's ports answer",
		func(m *machine.Machine, _ control.Status) string { return m.Address.String() })
}

func (a *app) urlCommand() *cobra.Command {
	return a.endpointCommand("url", "Print the URL of a machine's engine, with mutual TLS",
		func(_ *machine.Machine, s control.Status) string { return s.Endpoints.TCP })
}

// endpointCommand prints one line about a running machine.
func (a *app) endpointCommand(word, short string, line func(*machine.Machine, control.Status) string) *cobra.Command {
	return &cobra.Command{
		Use:               word + " [NAME]",
		Short:             short,
		Args:              atMostOne,
		ValidArgsFunction: a.completeNames,
		RunE: func(cmd *cobra.Command, args []string) error {
			m, err := a.load(args)
			if err != nil {
				return err
			}
			status, err := running(cmd.Context(), m)
			if err != nil {
				return err
			}
			_, err = fmt.Fprintln(a.stdout, line(m, status))
			return err
		},
	}
}

func printJSON(a *app, v any) error {
	e := json.NewEncoder(a.stdout)
	e.SetIndent("", "  ")
	return e.Encode(v)
}
