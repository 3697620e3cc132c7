package network

import (
	"bufio"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// holderOf looks for who listens at addr of this host.
func holderOf(protocol string, addr netip.AddrPort) Holder {
	socket, ok := findSocket(protocol, addr)
	if !ok {
		return Holder{}
	}
	dir := processWith("socket:[" + socket.inode + "]")
	if dir == "" {
		return Holder{Who: "a program of user " + socket.uid}
	}
	line, _ := os.ReadFile(filepath.Join(dir, "cmdline"))
	return describeHolder(filepath.Base(dir), strings.Split(string(line), "\x00"))
}

// describeHolder names a process by its number and its arguments. A supervisor's say
// which machine it is.
func describeHolder(pid string, args []string) Holder {
	if len(args) > 2 && args[1] == "supervise" {
		name := printable(args[2])
		return Holder{Machine: name, Who: "machine " + name}
	}
	name := printable(filepath.Base(args[0]))
	return Holder{Who: fmt.Sprintf("%s (process %s)", name, pid)}
}

// printable is what another process calls itself, as it can be shown: its first words, in
// letters that move no cursor.
func printable(name string) string {
	clean := strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' {
			return '?'
		}
		return r
	}, name)
	return clean[:min(len(clean), 40)]
}

type hostSocket struct{ inode, uid string }

// The states of a socket that has its port, in /proc/net/tcp and udp.
const (
	tcpListens = "0A"
	udpBound   = "07"
)

// findSocket looks for the socket that keeps others from addr: it has just that, or all
// addresses.
func findSocket(protocol string, addr netip.AddrPort) (found hostSocket, ok bool) {
	state := tcpListens
	if protocol == "udp" {
		state = udpBound
	}
	for _, file := range []string{protocol, protocol + "6"} {
		f, err := os.Open("/proc/net/" + file)
		if err != nil {
			continue
		}
		for lines := bufio.NewScanner(f); lines.Scan(); {
			local, st, socket := parseSocket(lines.Text())
			local = netip.AddrPortFrom(local.Addr().Unmap(), local.Port())
			if st != state || local.Port() != addr.Port() {
				continue
			}
			if local == addr {
				f.Close()
				return socket, true
			}
			if local.Addr().IsUnspecified() {
				found, ok = socket, true
			}
		}
		f.Close()
	}
	return found, ok
}

// parseSocket reads a line of /proc/net/tcp and its like, proc_pid_net(5). The address is
// not valid if it is none.
func parseSocket(line string) (local netip.AddrPort, state string, socket hostSocket) {
	fields := strings.Fields(line)
	if len(fields) < 10 {
		return
	}
	address, port, _ := strings.Cut(fields[1], ":")
	raw, err := hex.DecodeString(address)
	number, err2 := strconv.ParseUint(port, 16, 16)
	if err != nil || err2 != nil || len(raw)%4 != 0 {
		return
	}
	for i := 0; i < len(raw); i += 4 { // words in the processor's order
		binary.NativeEndian.PutUint32(raw[i:], binary.BigEndian.Uint32(raw[i:]))
	}
	ip, ok := netip.AddrFromSlice(raw)
	if !ok {
		return
	}
	return netip.AddrPortFrom(ip, uint16(number)), fields[3], hostSocket{inode: fields[9], uid: fields[7]}
}

// processWith returns the directory in /proc of a process that has a descriptor of that
// name. Those of other users cannot be read.
func processWith(name string) string {
	processes, _ := filepath.Glob("/proc/[0-9]*")
	for _, dir := range processes {
		entries, err := os.ReadDir(filepath.Join(dir, "fd"))
		if err != nil {
			continue
		}
		for _, entry := range entries {
			if target, _ := os.Readlink(filepath.Join(dir, "fd", entry.Name())); target == name {
				return dir
			}
		}
	}
	return ""
}
