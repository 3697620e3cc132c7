// Command echo answers whatever comes with itself: on port 53 of UDP, or on pairs of a
// network and an address in its arguments, such as "tcp6 [::]:7". On "sctp" it listens and
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
		switch network, address := pairs[0], pairs[1]; network[:3] {
		case "sct":
			if err := listenSCTP(netip.MustParseAddrPort(address)); err != nil {
				log.Fatal(err)
			}
		case "udp":
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

// listenSCTP listens on an address of IPv4 until the program ends.
func listenSCTP(address netip.AddrPort) error {
	const sctp = 132 // IPPROTO_SCTP
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM, sctp)
	if err != nil {
		return err
	}
	if err := syscall.Bind(fd, &syscall.SockaddrInet4{Port: int(address.Port()), Addr: address.Addr().As4()}); err != nil {
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
