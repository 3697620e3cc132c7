package machine

import (
	"fmt"
	"strconv"
	"strings"
)

// maxHostPorts bounds the ports that HostAccess may list.
const maxHostPorts = 1024

// HostPorts is HostAccess: all of the host's ports, or those that are listed.
func (s *Spec) HostPorts() (all bool, ports []uint16) {
	ports, _ = parseHostAccess(s.HostAccess) // it was checked
	return s.HostAccess == "" || s.HostAccess == "on", ports
}

// parseHostAccess returns the ports in a list of ports and ranges. "on", "off" and ""
// list none.
func parseHostAccess(access string) ([]uint16, error) {
	if access == "" || access == "on" || access == "off" {
		return nil, nil
	}
	var ports []uint16
	for _, item := range strings.Split(access, ",") {
		first, last, ranged := strings.Cut(item, "-")
		if !ranged {
			last = first
		}
		from, err1 := strconv.ParseUint(first, 10, 16)
		to, err2 := strconv.ParseUint(last, 10, 16)
		if err1 != nil || err2 != nil || from == 0 || to < from {
			return nil, fmt.Errorf("host access %q is not on, off, or a list of ports such as 5432,8000-8010", access)
		}
		if len(ports)+int(to-from)+1 > maxHostPorts {
			return nil, fmt.Errorf("host access %q lists more than %d ports", access, maxHostPorts)
		}
		for port := from; port <= to; port++ {
			ports = append(ports, uint16(port))
		}
	}
	return ports, nil
}
