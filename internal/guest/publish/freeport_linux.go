package publish

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// freePort returns a port that nobody has, at no IPv4 address of the guest: wanted, or
// another one if that is taken or 0.
func freePort(protocol string, wanted uint16) (uint16, error) {
	listen := func(port uint16) (uint16, error) {
		address := net.JoinHostPort("0.0.0.0", strconv.Itoa(int(port)))
		if protocol == "udp" {
			conn, err := net.ListenPacket("udp4", address)
			if err != nil {
				return 0, err
			}
			defer conn.Close()
			return uint16(conn.LocalAddr().(*net.UDPAddr).Port), nil
		}
		var plain net.ListenConfig
		plain.SetMultipathTCP(false) // there is one path
		l, err := plain.Listen(context.Background(), "tcp4", address)
		if err != nil {
			return 0, err
		}
		defer l.Close()
		return uint16(l.Addr().(*net.TCPAddr).Port), nil
	}
	port, err := listen(wanted)
	if err != nil && wanted != 0 {
		port, err = listen(0)
	}
	if err != nil {
		return 0, fmt.Errorf("looking for a free port of the guest: %w", err)
	}
	return port, nil
}

// containersDir is where dockerd keeps what its containers were asked to be.
const containersDir = "/var/lib/docker/containers"

// ephemeralPorts are those that the kernel chooses from, and docker too.
func ephemeralPorts() portRange {
	var r portRange
	b, err := os.ReadFile("/proc/sys/net/ipv4/ip_local_port_range")
	if err != nil {
		return portRange{}
	}
	if _, err := fmt.Sscan(string(b), &r.first, &r.last); err != nil {
		return portRange{}
	}
	return r
}

// An origin is what a published port was chosen from.
type origin int

const (
	unknown origin = iota // it is no container's, as far as can be told
	anyPort               // by docker, from all
	ranged                // by docker, from a range that the user gave
	named                 // by the user
)

// originOf tells what a port of a container was chosen from.
func originOf(port uint16) origin {
	o := givenByUser(containersDir, port)
	if o == unknown && ephemeralPorts().has(port) {
		return anyPort
	}
	return o
}

// chosenByDocker tells whether docker has chosen a port for a container, and its user
// named none.
func chosenByDocker(port uint16) bool {
	return ephemeralPorts().has(port) && givenByUser(containersDir, port) == unknown
}

// givenByUser tells whether a container was given the port by its number, or else a range
// of ports that has it.
func givenByUser(dir string, port uint16) origin {
	given := unknown
	files, _ := filepath.Glob(filepath.Join(dir, "*", "hostconfig.json"))
	for _, file := range files {
		b, err := os.ReadFile(file)
		if err != nil {
			continue
		}
		var config struct {
			PortBindings map[string][]struct{ HostPort string }
		}
		if json.Unmarshal(b, &config) != nil {
			continue
		}
		for _, bindings := range config.PortBindings {
			for _, binding := range bindings {
				switch inRange(binding.HostPort, port) {
				case named:
					return named
				case ranged:
					given = ranged
				}
			}
		}
	}
	return given
}

// inRange tells whether a port is the one that text names, or of the range.
func inRange(text string, port uint16) origin {
	from, to, ok := strings.Cut(text, "-")
	if !ok {
		to = from
	}
	first, err := strconv.ParseUint(from, 10, 16)
	last, err2 := strconv.ParseUint(to, 10, 16)
	switch {
	case err != nil, err2 != nil, uint64(port) < first, uint64(port) > last:
		return unknown
	case first == last:
		return named
	}
	return ranged
}
