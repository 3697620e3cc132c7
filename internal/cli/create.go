package cli

import (
	"cmp"
	"context"
	"fmt"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/hyve-vm/hyve/internal/dockerenv"
	"github.com/hyve-vm/hyve/internal/hint"
	"github.com/hyve-vm/hyve/internal/image"
	"github.com/hyve-vm/hyve/internal/image/build"
	"github.com/hyve-vm/hyve/internal/lifecycle"
	"github.com/hyve-vm/hyve/internal/machine"
	"github.com/hyve-vm/hyve/internal/supervisor"
)

func (a *app) createCommand() *cobra.Command {
	var create creation
	var timing, dryRun bool
	cmd := &cobra.Command{
		Use:   "create [NAME]",
		Short: "Create a machine and start it",
		Long: `Create a machine and start it. The first time this also builds the guest image
from Debian's packages. Without a name the machine is called "default".`,
		Example: "  hyve create\n  hyve create dockerhost --cpus 2 --memory 4GiB --disk 60GiB",
		Args:    atMostOne,
		RunE: func(cmd *cobra.Command, args []string) error {
			create.options.Spec.Name = defaultName
			if len(args) == 1 {
				create.options.Spec.Name = args[0]
			}
			home, options, err := a.creation(cmd, &create)
			if err != nil {
				return err
			}
			if dryRun {
				return a.dryRun(cmd, home, options)
			}
			show := a.newDisplay(timing)
			defer show.close()
			m, err := lifecycle.Create(cmd.Context(), home, options, show.follower(options.Spec.Name))
			if err != nil {
				return err
			}
			show.close()
			return a.introduce(cmd.Context(), m, options)
		},
	}
	f := cmd.Flags()
	create.flags(f)
	f.BoolVar(&create.options.NoStart, "no-start", false, "do not start the machine")
	f.BoolVar(&timing, "timing", false, "print where the time went")
	f.BoolVar(&dryRun, "dry-run", false, "print the VM's command line and create nothing")
	acceptMachineFlags(f)
	return cmd
}

// A creation is what the flags say of a machine to be made.
type creation struct {
	options      lifecycle.CreateOptions
	memory, disk sizeValue
}

func (c *creation) flags(f *pflag.FlagSet) {
	c.sizeFlags(f)
	c.engineFlags(f)
	c.bootFlags(f)
	c.hostFlags(f)
	spec := &c.options.Spec
	f.StringVar(&spec.Idle, "idle", "", "let the machine fall asleep when nothing happens in it for `DURATION`, such as 15m")
	f.StringVar(&spec.Image, "image", "", "guest image, by its digest (see hyve image ls; default: the current one)")
	engineFlag(f, &spec.Engine)
	f.StringVar(&c.options.Mirror, "mirror", "", "Debian `URL` to build the image from (default: $HYVE_MIRROR, or what the host's apt uses)")
	f.BoolVar(&c.options.Cold, "cold", false, "boot the machine, even where it could be thawed")
}

// engineFlags are what the engine is told, bootFlags what a machine has from one boot to the next.
func (c *creation) engineFlags(f *pflag.FlagSet) {
	spec := &c.options.Spec
	f.StringArrayVar(&spec.RegistryMirrors, "registry-mirror", nil, "`URL` of a registry mirror (repeatable)")
	f.StringArrayVar(&spec.InsecureRegistries, "insecure-registry", nil, "`HOST` or network of registries without TLS (repeatable)")
	f.StringArrayVar(&spec.CertNames, "tls-san", nil, "host `NAME` or address that the engine's certificate is also good for (repeatable)")
	f.StringArrayVar(&spec.Labels, "label", nil, "label of the engine, KEY=`VALUE` (repeatable)")
}

// hostFlags say what of the host the machine may use.
func (c *creation) hostFlags(f *pflag.FlagSet) {
	spec := &c.options.Spec
	f.StringVar(&spec.HostAccess, "host-access", "", "which `PORTS` of this host containers reach: on, off, or a list such as 5432,8000-8010 (default on)")
	f.StringVar(&spec.FromHost, "from-host", "", "which of the host's settings the machine has: all, none, or a `LIST` of search, zone, cas, registries, proxies (default all)")
}

func (c *creation) bootFlags(f *pflag.FlagSet) {
	spec := &c.options.Spec
	f.StringArrayVar(&spec.EngineOptions, "engine-opt", nil, "option of dockerd, NAME=`VALUE` without dashes (repeatable)")
	f.StringArrayVar(&spec.EngineEnv, "engine-env", nil, "variable of dockerd's environment, NAME=`VALUE` (repeatable)")
	f.StringVar(&spec.Hypervisor, "qemu", "", "`PATH` of the QEMU to use (default: the one on PATH)")
}

// engineFlag is the flag that says which Docker engine an image is to have.
func engineFlag(f *pflag.FlagSet, engine *string) {
	f.StringVar(engine, "engine", "", fmt.Sprintf("Docker engine: stable, newest, or a `VERSION` of Debian's docker.io (default: $HYVE_ENGINE, or %s)", build.DefaultEngine))
}

// wantedEngine returns the engine that a command line, or else the environment, asks for,
// "" if neither does.
func (a *app) wantedEngine(flag string) (string, error) {
	engine := cmp.Or(flag, a.getenv("HYVE_ENGINE"))
	if _, err := build.ParseEngine(engine); err != nil {
		return "", &usageError{err, hint.Of(err)}
	}
	return engine, nil
}

func (c *creation) sizeFlags(f *pflag.FlagSet) {
	f.IntVar(&c.options.Spec.CPUs, "cpus", 0, "virtual CPUs (default: the host's, at most 4)")
	c.memory.least, c.disk.least = machine.MinMemory, machine.MinDisk
	f.Var(&c.memory, "memory", "memory, such as 4GiB (default: half the host's, at most 4GiB)")
	f.Var(&c.disk, "disk", "largest size of the disk, which takes up only what is used (default 64GiB)")
}

// creation returns what the flags of cmd have said.
func (a *app) creation(cmd *cobra.Command, c *creation) (home machine.Home, options lifecycle.CreateOptions, err error) {
	options = c.options
	options.Spec.Memory, options.Spec.Disk = c.memory.bytes, c.disk.bytes
	if cmd.Flags().Changed("cpus") && options.Spec.CPUs < 1 {
		return "", options, &usageError{fmt.Errorf("%d CPUs are too few", options.Spec.CPUs), "give at least 1"}
	}
	if home, err = a.home(); err != nil {
		return "", options, err
	}
	if options.Spec.Image == "" || options.Spec.Engine != "" {
		if options.Spec.Engine, err = a.wantedEngine(options.Spec.Engine); err != nil {
			return "", options, err
		}
	}
	if options.Spec.Hypervisor, err = hypervisorPath(options.Spec.Hypervisor); err != nil {
		return "", options, err
	}
	options.Contexts, err = a.contexts(home)
	return home, options, err
}

// hypervisorPath is the path of --qemu as a supervisor finds it, which works in another
// directory. A mere name is looked for on PATH.
func hypervisorPath(given string) (string, error) {
	if !strings.ContainsRune(given, filepath.Separator) {
		return given, nil
	}
	path, err := filepath.Abs(given)
	if err != nil {
		return "", fmt.Errorf("finding QEMU %s: %w", given, err)
	}
	return path, nil
}

// acceptMachineFlags lets docker-machine's and its xhyve driver's names for
// flags stand for ours. Those that have lost their meaning are accepted and
// ignored, such as a UUID, without which machines did not keep their addresses.
func acceptMachineFlags(f *pflag.FlagSet) {
	ours := map[string]string{
		"xhyve-cpu-count":          "cpus",
		"xhyve-memory-size":        "memory",
		"xhyve-disk-size":          "disk",
		"xhyve-boot2docker-url":    "image",
		"engine-registry-mirror":   "registry-mirror",
		"engine-insecure-registry": "insecure-registry",
		"engine-label":             "label",
	}
	f.SetNormalizeFunc(func(_ *pflag.FlagSet, name string) pflag.NormalizedName {
		if own, ok := ours[name]; ok {
			name = own
		}
		return pflag.NormalizedName(name)
	})
	for _, name := range []string{"driver", "engine-install-url", "engine-storage-driver", "xhyve-uuid"} {
		short := ""
		if name == "driver" {
			short = "d"
		}
		f.StringP(name, short, "", "ignored")
		f.MarkHidden(name)
	}
}

// sizeValue is a flag that holds a size in bytes.
type sizeValue struct {
	bytes int64
	least int64 // that makes sense
}

func (v *sizeValue) String() string {
	if v.bytes == 0 {
		return ""
	}
	return machine.FormatSize(v.bytes)
}

func (v *sizeValue) Type() string { return "size" }

// Set takes whatever is a size. What is too much, and what is less than the least, the
// check of the whole machine tells.
func (v *sizeValue) Set(s string) error {
	n, err := machine.ParseSize(s)
	if err == nil && n == 0 {
		err = fmt.Errorf("size %q is less than 1MiB", s)
	}
	if err != nil {
		return fmt.Errorf("%w: give %s, or more up to what the host has", err, machine.FormatSize(v.least))
	}
	v.bytes = n
	return nil
}

// introduce says how to use a new machine, and makes the first one docker's current one
// where docker talks to nothing else.
func (a *app) introduce(ctx context.Context, m *machine.Machine, options lifecycle.CreateOptions) error {
	if options.NoStart {
		return a.say("machine %q is made; start it with: hyve start %s", m.Name, m.Name)
	}
	first, err := onlyMachine(m)
	if err != nil {
		return err
	}
	if first {
		adopt, why := options.Contexts.ShouldAdopt(ctx, a.getenv)
		if adopt {
			if err := options.Contexts.Use(m.Name); err != nil {
				return err
			}
			return a.say("docker uses machine %q now: docker run …", m.Name)
		}
		if err := a.say("docker keeps its current context: %s", why); err != nil {
			return err
		}
	}
	return a.say("use it with: docker --context %s run …, or make it docker's own with: hyve use %s",
		dockerenv.ContextName(m.Name), m.Name)
}

// onlyMachine tells whether there is no other machine than m, but for throw-away ones.
func onlyMachine(m *machine.Machine) (bool, error) {
	entries, err := m.Home().List()
	for _, e := range entries {
		if e.Name != m.Name && (e.Machine == nil || !e.Machine.Throwaway) {
			return false, nil
		}
	}
	return true, err
}

// dryRun prints the command line of the VM that would be made.
func (a *app) dryRun(cmd *cobra.Command, home machine.Home, options lifecycle.CreateOptions) error {
	m, err := lifecycle.Plan(home, options)
	if err != nil {
		return err
	}
	img, err := lifecycle.PlannedImage(image.Look(home.ImagesDir()), m.Spec)
	if err != nil {
		return err
	}
	argv, err := supervisor.CommandLine(cmd.Context(), m, img)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintln(a.stdout, quoteWords(argv))
	return err
}
