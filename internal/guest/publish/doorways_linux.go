package publish

import (
	"fmt"
	"strconv"

	"github.com/hyve-vm/hyve/internal/guest/process"
)

// doorWays lead who connects to one of the guest's doors from within, by whatever address of
// the guest's, to the program that has asked for that port and was given another one. The
// host's connections still come to the door, see keepDoors.
type doorWays struct {
	run func(argv ...string) error
	now map[uint16]uint16 // doors, and where they lead
}

func newDoorWays(r *process.Reaper) *doorWays {
	run := func(argv ...string) error { _, err := r.Run(nil, argv...); return err }
	return &doorWays{run: run, now: map[uint16]uint16{}}
}

// follow makes the doors lead to those publications, each at its port of the guest, and the
// others nowhere else.
func (d *doorWays) follow(moved map[publication]uint16) error {
	wanted := map[uint16]uint16{}
	for p, port := range moved {
		if wanted[p.port] == 0 || port == d.now[p.port] { // one of several that has it stays
			wanted[p.port] = port
		}
	}
	for door, port := range d.now {
		if wanted[door] != port {
			delete(d.now, door)
			if err := d.change("-D", door, port); err != nil {
				return err
			}
		}
	}
	for door, port := range wanted {
		if d.now[door] == 0 {
			d.now[door] = port
			if err := d.change("-A", door, port); err != nil {
				return err
			}
		}
	}
	return nil
}

func (d *doorWays) change(how string, door, port uint16) error {
	for _, chain := range []string{"PREROUTING", "OUTPUT"} { // from containers, from the guest itself
		err := d.run("/usr/sbin/iptables", "--wait", "-t", "nat", how, chain, "-p", "tcp", "--dport", strconv.Itoa(int(door)),
			"-m", "addrtype", "--dst-type", "LOCAL", "-j", "REDIRECT", "--to-ports", strconv.Itoa(int(port)))
		if err != nil {
			return fmt.Errorf("leading port %d to %d: %w", door, port, err)
		}
	}
	return nil
}
