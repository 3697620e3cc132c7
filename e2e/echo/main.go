// Command echo answers whatever comes with itself: on port 53 of UDP, or on pairs of a
// network and an address in its arguments, such as "tcp6 [::]:7". On "sctp" and "udplite" it listens and
// does not answer. It runs in a container of the tests.
package main

import (
	"io"
	"log"
	"net"
	"net/netip"
	"os"
	"syscall"
	"time"
)

func main() {
	pairs := os.Args[1:]
	if len(pairs) == 0 {
		pairs = []string{"udp", ":53"}
	}
	for ; len(pairs) > 1; pairs = pairs[2:] {
		switch network, address := pairs[0], pairs[1]; network {
		case "sctp", "udplite":
			if err := listen(network, netip.MustParseAddrPort(address)); err != nil {
				log.Fatal(err)
			}
		case "udp", "udp4", "udp6":
			conn, err := net.ListenPacket(network, address)
			if err != nil {
				log.Fatal(err)
			}
			go datagrams(conn)
		default:
			l, err := net.Listen(network, address)
			if err != nil {
				log.Fatal(err)
			}
			go connections(l)
		}
	}
	for {
		time.Sleep(time.Hour) // an empty select would be a deadlock where only the kernel listens
	}
}

// listen listens by a protocol that Go does not know on an address of IPv4, until the program
// ends.
func listen(protocol string, address netip.AddrPort) error {
	kind, number := syscall.SOCK_STREAM, 132 // IPPROTO_SCTP
	if protocol == "udplite" {
		kind, number = syscall.SOCK_DGRAM, 136 // IPPROTO_UDPLITE
	}
	fd, err := syscall.Socket(syscall.AF_INET, kind, number)
	if err != nil {
		return err
	}
	if err := syscall.Bind(fd, &syscall.SockaddrInet4{Port: int(address.Port()), Addr: address.Addr().As4()}); err != nil || kind == syscall.SOCK_DGRAM {
		return err
	}
	return syscall.Listen(fd, 1)
}

func datagrams(conn net.PacketConn) {
	buffer := make([]byte, 64<<10)
	for {
		n, from, err := conn.ReadFrom(buffer)
		if err != nil {
			log.Fatal(err)
		}
		conn.WriteTo(buffer[:n], from)
	}
}

func connections(l net.Listener) {
	for {
		conn, err := l.Accept()
		if err != nil {
			log.Fatal(err)
		}
		go func() {
			defer conn.Close()
			io.Copy(conn, conn)
		}()
	}
}
