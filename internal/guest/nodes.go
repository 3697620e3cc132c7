package guest

import (
	"path"
	"strconv"
	"strings"
)

// A staticNode is a node of /dev that is there before its driver is: opening it has the
// kernel load the module.
type staticNode struct {
	name         string // below /dev
	block        bool
	major, minor uint32
}

// parseStaticNodes reads a modules.devname as depmod(8) writes it: "MODULE NAME cMAJOR:MINOR"
// a line, b for a block device. What it does not understand it leaves out.
func parseStaticNodes(text string) []staticNode {
	var nodes []staticNode
	for line := range strings.Lines(text) {
		f := strings.Fields(line)
		if len(f) != 3 || f[0] == "#" || len(f[2]) < 2 || f[1] != path.Clean(f[1]) || f[1][0] == '/' || strings.HasPrefix(f[1], "..") {
			continue
		}
		kind := f[2][0]
		a, b, ok := strings.Cut(f[2][1:], ":")
		major, err1 := strconv.ParseUint(a, 10, 12)
		minor, err2 := strconv.ParseUint(b, 10, 20)
		if !ok || err1 != nil || err2 != nil || kind != 'c' && kind != 'b' {
			continue
		}
		nodes = append(nodes, staticNode{f[1], kind == 'b', uint32(major), uint32(minor)})
	}
	return nodes
}

// A nodeRule says who may open the nodes of /dev that a pattern of path.Match's names.
type nodeRule struct {
	pattern string
	mode    uint32
	group   string
}

// nodeRules are what udev's rules give on an ordinary Linux (systemd's
// 50-udev-default.rules), the first that matches; other nodes stay as the kernel makes
// them, root's alone. /dev/kvm is open to all, as it is there but for Debian's own default.
var nodeRules = []nodeRule{
	{"fuse", 0o666, "root"},
	{"net/tun", 0o666, "root"},
	{"kvm", 0o666, "kvm"},
	{"vhost-*", 0o660, "kvm"},
	{"udmabuf", 0o660, "kvm"},
	{"tty", 0o666, "tty"},
	{"ptmx", 0o666, "tty"},
	{"tty[0-9]*", 0o620, "tty"},
	{"hvc[0-9]*", 0o620, "tty"},
	{"tty[A-Z]*[0-9]", 0o660, "dialout"},
	{"vcs*", 0o660, "tty"},
	{"mem", 0o640, "kmem"},
	{"port", 0o640, "kmem"},
	{"nvram", 0o640, "kmem"},
	{"input/*", 0o660, "input"},
	{"cpu/*/cpuid", 0o444, "root"},
	{"loop-control", 0o660, "disk"},
	{"sg[0-9]*", 0o660, "disk"},
	{"sr[0-9]*", 0o660, "cdrom"},
	{"snd/*", 0o660, "audio"},
	{"dri/renderD*", 0o666, "video"},
	{"dri/*", 0o660, "video"},
}

// blockRule is for all other disks.
var blockRule = nodeRule{"*", 0o660, "disk"}

// ruleOf returns the rule for the node of that name below /dev.
func ruleOf(name string, block bool) (nodeRule, bool) {
	for _, r := range nodeRules {
		if ok, err := path.Match(r.pattern, name); ok && err == nil {
			return r, true
		}
	}
	return blockRule, block
}

// nodeLinks are other names of nodes, as udev's rules give them.
var nodeLinks = map[string]string{"rtc0": "rtc"}
