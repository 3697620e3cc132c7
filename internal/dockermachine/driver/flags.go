package driver

import (
	"fmt"
	"strings"
)

// A Kind says what a flag takes.
type Kind int

// The kinds of flags that docker-machine knows.
const (
	Text   Kind = iota
	Number      // 0 leaves the choice to hyve
	Switch      // nothing
	List        // a text, and may be given several times
)

// A Flag is one of docker-machine-driver-xhyve's.
type Flag struct {
	Name  string // behind the driver's name, "cpu-count" of --xhyve-cpu-count
	Kind  Kind
	Usage string
	// Ignored says why the flag is accepted and has no effect, "" if it has one.
	Ignored string
}

const (
	oneDisk   = "the disk is one sparse file, which takes only what is used"
	noFolders = "hyve cannot share folders yet, so a bind mount of one is empty"
)

// Flags are the flags of docker-machine-driver-xhyve f611cce, in its order. Under the
// driver name "hyve" there are the same.
var Flags = []Flag{
	{Name: "boot2docker-url", Kind: Text, Usage: "Guest image, by its digest (see hyve image ls; default: the current one)"},
	{Name: "cpu-count", Kind: Number, Usage: "CPUs (default: the host's, at most 4; -1 is all of them)"},
	{Name: "memory-size", Kind: Number, Usage: "Memory in MB (default: half the host's, at most 4096)"},
	{Name: "disk-size", Kind: Number, Usage: "Greatest size of the disk in MB, which takes only what is used (default: 65536)"},
	{Name: "boot-cmd", Kind: Text, Ignored: "the guest image has its own kernel parameters"},
	{Name: "boot-kernel", Kind: Text, Ignored: "the guest image has its own kernel"},
	{Name: "boot-initrd", Kind: Text, Ignored: "the guest image has its own initrd"},
	{Name: "uuid", Kind: Text, Usage: "Accepted: machines keep their addresses without it"},
	{Name: "qcow2", Kind: Switch, Ignored: oneDisk},
	{Name: "rawdisk", Kind: Switch, Ignored: oneDisk},
	{Name: "virtio-9p", Kind: List, Ignored: noFolders},
	{Name: "virtio-9p-root", Kind: Text, Ignored: noFolders},
	{Name: "experimental-nfs-share", Kind: List, Ignored: noFolders},
	{Name: "experimental-nfs-share-root", Kind: Text, Ignored: noFolders},
}

// Long is the flag's whole name, without dashes.
func (f Flag) Long(driver string) string { return driver + "-" + f.Name }

// Variable is the variable of the environment that stands for the flag.
func (f Flag) Variable(driver string) string {
	return strings.ToUpper(strings.NewReplacer("-", "_", "rawdisk", "raw_disk").Replace(f.Long(driver)))
}

// Help describes the flag.
func (f Flag) Help() string {
	if f.Ignored != "" {
		return "Ignored: " + f.Ignored
	}
	return f.Usage
}

// wire returns the flag as docker-machine knows it.
func (f Flag) wire(driver string) any {
	name, usage, variable := f.Long(driver), f.Help(), f.Variable(driver)
	switch f.Kind {
	case Number:
		return &IntFlag{Name: name, Usage: usage, EnvVar: variable}
	case Switch:
		return &BoolFlag{Name: name, Usage: usage, EnvVar: variable}
	case List:
		return &StringSliceFlag{Name: name, Usage: usage, EnvVar: variable}
	}
	return &StringFlag{Name: name, Usage: usage, EnvVar: variable}
}

// ignored says of each flag that was given in vain why that is so.
func ignored(driver string, given FlagValues) []string {
	var lines []string
	for _, f := range Flags {
		if f.Ignored != "" && given.has(f.Long(driver)) {
			lines = append(lines, fmt.Sprintf("--%s is ignored: %s", f.Long(driver), f.Ignored))
		}
	}
	return lines
}

// has tells whether a flag has another value than nothing.
func (v FlagValues) has(name string) bool {
	switch value := v.Values[name].(type) {
	case string:
		return value != ""
	case int:
		return value != 0
	case bool:
		return value
	case []string:
		return len(value) > 0
	}
	return false
}

func (v FlagValues) text(name string) string {
	s, _ := v.Values[name].(string)
	return s
}

func (v FlagValues) number(name string) int {
	n, _ := v.Values[name].(int)
	return n
}

func (v FlagValues) flag(name string) bool {
	b, _ := v.Values[name].(bool)
	return b
}
