package cli

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/hyve-vm/hyve/internal/lifecycle"
	"github.com/hyve-vm/hyve/internal/machine"
)

func (a *app) setCommand() *cobra.Command {
	var change settingFlags
	cmd := &cobra.Command{
		Use:   "set NAME [SETTING=VALUE...]",
		Short: "Change settings of a machine",
		Long: `Change settings of a machine, which may run. They are those of hyve create; idle=15m
is the same as --idle 15m.

At once: --disk, which only grows; --registry-mirror, --insecure-registry and --label,
which the engine reads without a restart; --tls-san; --idle; --host-access; --from-host.

At the next start: --cpus, --memory, --engine-opt, --engine-env, --qemu. hyve restart is
one; hyve status shows what waits. Containers of a suspended machine go on with what
they had, until the machine is started again after that.

What can be given several times is replaced as a whole; an empty value takes it away.`,
		Example:           "  hyve set dockerhost --memory 8GiB --disk 100GiB\n  hyve set dockerhost idle=15m\n  hyve set dockerhost host-access=5432,8000-8010\n  hyve set dockerhost --label ''",
		ValidArgsFunction: a.completeNames,
		RunE: func(cmd *cobra.Command, args []string) error {
			settings, err := change.settings(cmd.Flags(), args[min(1, len(args)):])
			if err != nil {
				return err
			}
			if len(args) == 0 || settings == (machine.Settings{}) {
				return &usageError{errors.New("a machine and the settings to change are expected"), "see hyve set --help"}
			}
			m, err := a.load(args[:1])
			if err != nil {
				return err
			}
			err = lifecycle.Set(cmd.Context(), m, settings)
			if errors.Is(err, lifecycle.ErrAlready) {
				err = a.say("machine %q has these settings already", m.Name)
			}
			if err != nil {
				return err
			}
			return a.tellPending(m)
		},
	}
	change.flags(cmd.Flags())
	return cmd
}

// tellPending says what a machine has to wait for.
func (a *app) tellPending(m *machine.Machine) error {
	for _, p := range m.Pending() {
		if err := a.say("%s at the next start of machine %q: %s", p.Setting, m.Name, describePending(p)); err != nil {
			return err
		}
	}
	return nil
}

func describePending(p machine.Pending) string {
	return fmt.Sprintf("%s instead of %s", cmp.Or(p.Next, "none"), cmp.Or(p.Now, "none"))
}

// settingFlags are the flags of set.
type settingFlags struct {
	creation
	idle string
}

// unsettable are flags of create that set does not know, and what to do instead.
var unsettable = map[string]string{
	"image":  "hyve upgrade NAME moves a machine to today's image",
	"engine": "hyve upgrade NAME --engine ENGINE moves a machine to another engine",
	"mirror": "it is where an image is built from: hyve image build --mirror URL",
	"name":   "hyve clone NAME NEW makes a copy under another name",
	"driver": "it is for display alone",
	"cold":   "hyve stop --cold NAME has the next start boot",
}

func (c *settingFlags) flags(f *pflag.FlagSet) {
	c.sizeFlags(f)
	c.bootFlags(f)
	c.engineFlags(f)
	c.hostFlags(f)
	f.StringVar(&c.idle, "idle", "", "let the machine fall asleep when nothing happens in it for `DURATION`, such as 15m, or off")
	for flag, name := range map[string]string{"cpus": "virtual CPUs", "memory": "memory, such as 4GiB",
		"disk": "largest size of the disk, which only grows", "qemu": "`PATH` of the QEMU to use; empty for the one on PATH"} {
		f.Lookup(flag).Usage = name
	}
	for name := range unsettable {
		f.String(name, "", "")
		f.MarkHidden(name)
	}
	f.Lookup("cold").NoOptDefVal = "true"
}

// settings are what flags and words of the form SETTING=VALUE say.
func (c *settingFlags) settings(f *pflag.FlagSet, words []string) (s machine.Settings, err error) {
	for _, word := range words {
		setting, value, ok := strings.Cut(word, "=")
		if flag := f.Lookup(setting); !ok || flag == nil || setting == "help" {
			return s, &usageError{fmt.Errorf("%q is not a known setting with a value", word), "what can be set: hyve set --help"}
		}
		if err := f.Set(setting, value); err != nil {
			if invalid := (*pflag.InvalidValueError)(nil); errors.As(err, &invalid) {
				err = badValue(setting, invalid)
			}
			return s, &usageError{err, "see hyve set --help"}
		}
	}
	for name, instead := range unsettable {
		if f.Changed(name) {
			return s, &usageError{fmt.Errorf("%s cannot be changed on a machine that exists", name), instead}
		}
	}
	spec := &c.options.Spec
	spec.Memory, spec.Disk = c.memory.bytes, c.disk.bytes
	if c.idle != "off" {
		spec.Idle = c.idle
	}
	if spec.Hypervisor, err = hypervisorPath(spec.Hypervisor); err != nil {
		return s, err
	}
	s.CPUs = given(f, "cpus", spec.CPUs)
	s.Memory = given(f, "memory", spec.Memory)
	s.Disk = given(f, "disk", spec.Disk)
	s.Hypervisor = given(f, "qemu", spec.Hypervisor)
	s.Idle = given(f, "idle", spec.Idle)
	s.FromHost = given(f, "from-host", spec.FromHost)
	s.HostAccess = given(f, "host-access", spec.HostAccess)
	for flag, list := range map[string]struct {
		to   **[]string
		from []string
	}{
		"registry-mirror":   {&s.RegistryMirrors, spec.RegistryMirrors},
		"insecure-registry": {&s.InsecureRegistries, spec.InsecureRegistries},
		"label":             {&s.Labels, spec.Labels},
		"tls-san":           {&s.CertNames, spec.CertNames},
		"engine-opt":        {&s.EngineOptions, spec.EngineOptions},
		"engine-env":        {&s.EngineEnv, spec.EngineEnv},
	} {
		*list.to = given(f, flag, slices.DeleteFunc(slices.Clone(list.from), func(v string) bool { return v == "" }))
	}
	return s, nil
}

// given is a flag's value, nil if it was not given.
func given[T any](f *pflag.FlagSet, name string, value T) *T {
	if !f.Changed(name) {
		return nil
	}
	return &value
}
