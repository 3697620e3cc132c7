package guest

import (
	"bytes"
	"strings"
)

// A uevent is what the kernel says when a device comes, goes or changes.
type uevent struct {
	action    string // "add", "change", …
	subsystem string
	devname   string // below /dev; empty where there is no node
	devpath   string // below /sys
}

// parseUevent reads one datagram of the kernel's NETLINK_KOBJECT_UEVENT group:
// "ACTION@DEVPATH", then KEY=VALUE pairs, each ended by a zero byte.
func parseUevent(b []byte) (uevent, bool) {
	var e uevent
	head, rest, ok := bytes.Cut(b, []byte{0})
	action, path, at := strings.Cut(string(head), "@")
	if !ok || !at || action == "" {
		return e, false // udev's own messages begin with "libudev"
	}
	e.action, e.devpath = action, path
	for _, field := range bytes.Split(rest, []byte{0}) {
		key, value, ok := strings.Cut(string(field), "=")
		if !ok {
			continue
		}
		switch key {
		case "SUBSYSTEM":
			e.subsystem = value
		case "DEVNAME":
			e.devname = value
		}
	}
	return e, true
}
