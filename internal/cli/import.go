package cli

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync/atomic"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/hyve-vm/hyve/internal/guestapi"
	"github.com/hyve-vm/hyve/internal/lifecycle"
	"github.com/hyve-vm/hyve/internal/machine"
	"github.com/hyve-vm/hyve/internal/machinestore"
)

// An importing is what the flags of import say.
type importing struct {
	create creation
	from   string
	as     string
	raw    string
	format string
	force  bool
}

func (a *app) importCommand() *cobra.Command {
	var options importing
	cmd := &cobra.Command{
		Use:   "import [NAME...]",
		Short: "Import docker-machine's machines",
		Long: `Make machines of those that docker-machine has, of its drivers xhyve and virtualbox: with
their settings, and with everything that docker keeps in them. docker-machine's own
machines are only read. Without names, list what could be imported.`,
		Example: "  hyve import\n  hyve import dev\n  hyve import default --as old --disk 60GiB",
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) != 1 && (options.as != "" || options.raw != "") {
				return &usageError{errors.New("--as and --raw are for one machine"), "see hyve import --help"}
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			store, err := machinestore.Default(a.getenv)
			if options.from != "" {
				store, err = machinestore.Store(options.from), nil
			}
			if err != nil {
				return err
			}
			if len(args) == 0 {
				return a.listImports(cmd.Context(), store, options.format)
			}
			return a.each(args, func(home machine.Home, name string) error {
				return a.importMachine(cmd, store, name, options)
			})
		},
	}
	f := cmd.Flags()
	options.create.sizeFlags(f)
	for flag, usage := range map[string]string{
		"cpus":   "virtual CPUs (default: as many as it had)",
		"memory": "memory, such as 4GiB (default: as much as it had)",
		"disk":   "largest size of the disk, which takes up only what is used (default: what it was)",
	} {
		f.Lookup(flag).Usage = usage
	}
	f.StringVar(&options.from, "from", "", "docker-machine's `DIR` (default: $MACHINE_STORAGE_PATH, or ~/.docker/machine)")
	f.StringVar(&options.as, "as", "", "`NAME` of the new machine (default: the same)")
	f.StringVar(&options.raw, "raw", "", "raw disk `FILE` with the data, in place of the machine's own disk")
	f.BoolVar(&options.force, "force", false, "copy the disk of a machine that seems to run")
	f.BoolVar(&options.create.options.NoStart, "no-start", false, "do not start the machine")
	formatFlag(cmd, &options.format)
	return cmd
}

// importable is a machine in the JSON of import.
type importable struct {
	Name   string `json:"name"`
	Driver string `json:"driver,omitempty"`
	CPUs   int    `json:"cpus,omitempty"`
	Memory int64  `json:"memory,omitempty"` // bytes
	Disk   int64  `json:"disk,omitempty"`   // bytes
	// What says whether it can be imported, and if not, why.
	What string `json:"what"`
}

func (a *app) listImports(ctx context.Context, store machinestore.Store, format string) error {
	home, err := a.home()
	if err != nil {
		return err
	}
	names, err := store.Names()
	if err != nil {
		return err
	}
	list := make([]importable, len(names))
	for i, name := range names {
		list[i] = lookAt(ctx, home, store, name)
	}
	if format == "json" {
		return printJSON(a, list)
	}
	w := tabwriter.NewWriter(a.stdout, 5, 1, 3, ' ', 0)
	fmt.Fprintln(w, "NAME\tDRIVER\tCPUS\tMEMORY\tDISK\tWHAT")
	for _, m := range list {
		if m.Disk == 0 {
			fmt.Fprintf(w, "%s\t%s\t\t\t\t%s\n", m.Name, m.Driver, m.What)
			continue
		}
		fmt.Fprintf(w, "%s\t%s\t%d\t%s\t%s\t%s\n", m.Name, m.Driver, m.CPUs, machine.FormatSize(m.Memory), machine.FormatSize(m.Disk), m.What)
	}
	return w.Flush()
}

// lookAt tells whether a machine can be imported.
func lookAt(ctx context.Context, home machine.Home, store machinestore.Store, name string) importable {
	m := importable{Name: name}
	host, err := store.Load(name)
	if err != nil {
		if machine.CheckName(name) != nil {
			m.Name = fmt.Sprintf("%.80q", name) // of any characters
		}
		m.What = err.Error()
		return m
	}
	m.Driver = host.DriverName
	vm, err := store.VM(host)
	if err != nil {
		m.What = err.Error()
		return m
	}
	m.CPUs, m.Memory, m.Disk = vm.CPUs, vm.Memory, vm.Disk
	disk, err := store.Disk(host)
	if err != nil {
		m.What = err.Error()
		return m
	}
	running, err := store.Running(ctx, host, vm)
	switch {
	case err != nil:
		m.What = err.Error()
	case running != "":
		m.What = "it runs: stop it first"
	case home.CheckFree(name) != nil:
		m.What = "there is a hyve machine of its name: import it with --as"
	case disk.Format == "sparsebundle":
		m.What = "its sparse bundle is to be converted first: hyve import " + name + " says how"
	default:
		m.What = "can be imported, " + machine.FormatSize(disk.Used) + " on its disk"
	}
	return m
}

// runningError says that a machine's disk may change while it is read.
type runningError struct{ name, why string }

func (e *runningError) Error() string {
	return fmt.Sprintf("importing %s: docker-machine's machine runs: %s", e.name, e.why)
}

func (e *runningError) Hint() string {
	return fmt.Sprintf("stop it with: docker-machine stop %s; if it does not run, add --force", e.name)
}

// bundleError says that macOS itself has to convert a disk.
type bundleError struct{ name, path string }

func (e *bundleError) Error() string {
	return fmt.Sprintf("importing %s: its disk is a sparse bundle, which macOS alone reads", e.name)
}

func (e *bundleError) Hint() string {
	return fmt.Sprintf("type: hdiutil convert %s -format UDTO -o %s && hyve import %s --raw %s.cdr",
		quoteWords([]string{e.path}), e.name, e.name, e.name)
}

func (a *app) importMachine(cmd *cobra.Command, store machinestore.Store, name string, flags importing) error {
	ctx := cmd.Context()
	host, err := store.Load(name)
	if errors.Is(err, machinestore.ErrNotFound) {
		return &usageError{fmt.Errorf("docker-machine has no machine %q in %s", name, store), "hyve import lists what there is"}
	}
	if err != nil {
		return err
	}
	vm, err := store.VM(host)
	if err != nil {
		return fmt.Errorf("importing %s: %w", name, err)
	}
	disk, used, err := flags.disk(store, host)
	if err != nil {
		return err
	}
	if running, err := store.Running(ctx, host, vm); !flags.force && flags.raw == "" && (err != nil || running != "") {
		if err != nil {
			running = err.Error()
		}
		return &runningError{name, running}
	}
	home, options, err := a.creation(cmd, &flags.create)
	if err != nil {
		return err
	}
	bounds, err := machine.ThisHost(string(home))
	if err != nil {
		return err
	}
	asked := options.Spec
	options.Spec = importSpec(host, vm, asked, bounds)
	if flags.as != "" {
		options.Spec.Name = flags.as
	}
	show := a.newDisplay(false)
	defer show.close()
	for _, note := range slices.Concat(importNotes(host, vm), boundNotes(vm, options.Spec, asked)) {
		show.warn(errors.New(note))
	}
	stage := "Copying the disk of " + name
	var sum atomic.Int64
	m, status, err := lifecycle.Import(ctx, home, options, disk, show.follower(options.Spec.Name), func(bytes int64) {
		show.enter(stage).Bytes(sum.Add(bytes), used)
	})
	if err != nil {
		return fmt.Errorf("importing %s: %w", name, err)
	}
	for _, problem := range status.Problems {
		show.warn(errors.New(problem))
	}
	show.done("")
	show.close()
	return a.introduce(ctx, m, options)
}

// disk is where a machine's data is, and how many bytes of it, 0 if that is not known.
func (flags importing) disk(store machinestore.Store, host *machinestore.Host) (lifecycle.ForeignDisk, int64, error) {
	if flags.raw != "" {
		path, err := filepath.Abs(flags.raw)
		if err == nil {
			var info os.FileInfo
			if info, err = os.Stat(path); err == nil && !info.Mode().IsRegular() {
				err = fmt.Errorf("%s is not a file", path)
			}
		}
		if err != nil {
			return lifecycle.ForeignDisk{}, 0, fmt.Errorf("importing %s: %w", host.Name, err)
		}
		return lifecycle.ForeignDisk{Path: path, Format: "raw"}, 0, nil
	}
	disk, err := store.Disk(host)
	if err != nil {
		return lifecycle.ForeignDisk{}, 0, err
	}
	if disk.Format == "sparsebundle" {
		return lifecycle.ForeignDisk{}, 0, &bundleError{host.Name, disk.Path}
	}
	return lifecycle.ForeignDisk{Path: disk.Path, Format: disk.Format}, disk.Used, nil
}

// importSpec is the Spec of a machine that takes over from docker-machine's, where asked
// leaves it open, within what this host has to give.
func importSpec(host *machinestore.Host, vm *machinestore.VM, asked machine.Spec, bounds machine.Host) machine.Spec {
	engine := host.HostOptions.EngineOptions
	spec := machine.Spec{
		Name:               host.Name,
		CPUs:               min(vm.CPUs, bounds.CPUs),
		Memory:             wholeMiB(min(max(vm.Memory, machine.MinMemory), bounds.Memory)),
		Disk:               wholeMiB(min(max(vm.Disk, machine.MinDisk), bounds.Disk)),
		RegistryMirrors:    engine.RegistryMirror,
		InsecureRegistries: engine.InsecureRegistry,
		EngineOptions:      slices.DeleteFunc(slices.Clone(engine.ArbitraryFlags), owned),
		EngineEnv:          engine.Env,
		Labels:             engine.Labels,
		CertNames:          host.HostOptions.AuthOptions.ServerCertSANs,
		Driver:             host.DriverName,
	}
	if asked.CPUs != 0 {
		spec.CPUs = asked.CPUs
	}
	if asked.Memory != 0 {
		spec.Memory = asked.Memory
	}
	if asked.Disk != 0 {
		spec.Disk = asked.Disk
	}
	return spec
}

// owned tells whether an option of the engine's is hyve's alone.
func owned(option string) bool {
	_, owned := guestapi.OwnedOption(option)
	return owned
}

// importNotes are what of a machine does not come along, one line each.
func importNotes(host *machinestore.Host, vm *machinestore.VM) []string {
	var notes []string
	if len(vm.Shares) > 0 {
		notes = append(notes, fmt.Sprintf("the machine shared %d directories with this host, as %.200q: containers that mount them find them empty", len(vm.Shares), vm.Shares[0]))
	}
	for _, option := range host.HostOptions.EngineOptions.ArbitraryFlags {
		if owned(option) {
			notes = append(notes, fmt.Sprintf("docker's option %.80q does not come along: it belongs to hyve", option))
		}
	}
	if driver := host.HostOptions.EngineOptions.StorageDriver; driver != "" && driver != "overlay2" {
		notes = append(notes, fmt.Sprintf("docker's storage driver was %.40q, and is overlay2 from now on", driver))
	}
	if host.HostOptions.SwarmOptions.IsSwarm {
		notes = append(notes, "the machine was part of a stand-alone Swarm, which does not come along")
	}
	return notes
}

// boundNotes are the sizes of a machine that this host cannot give it, one line each.
func boundNotes(vm *machinestore.VM, spec, asked machine.Spec) []string {
	var notes []string
	for _, size := range []struct {
		what            string
		had, has, asked int64
	}{
		{"memory", vm.Memory, spec.Memory, asked.Memory},
		{"disk", vm.Disk, spec.Disk, asked.Disk},
	} {
		if had := wholeMiB(size.had); size.asked == 0 && had != size.has {
			notes = append(notes, fmt.Sprintf("its %s of %s is not what this host allows: it gets %s", size.what, machine.FormatSize(had), machine.FormatSize(size.has)))
		}
	}
	if asked.CPUs == 0 && vm.CPUs > spec.CPUs && spec.CPUs > 0 {
		notes = append(notes, fmt.Sprintf("its %d CPUs are more than this host has: it gets %d", vm.CPUs, spec.CPUs))
	}
	return notes
}

func wholeMiB(bytes int64) int64 { return bytes &^ (1<<20 - 1) }
