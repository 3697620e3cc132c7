// Command echo answers whatever comes with itself: on port 53 of UDP, or on pairs of a
// network and an address in its arguments, such as "tcp6 [::]:7". It runs in a container of
// the tests.
package main

import (
	"io"
	"log"
	"net"
	"os"
)

func main() {
	pairs := os.Args[1:]
	if len(pairs) == 0 {
		pairs = []string{"udp", ":53"}
	}
	for ; len(pairs) > 1; pairs = pairs[2:] {
		if network, address := pairs[0], pairs[1]; network[:3] == "udp" {
			conn, err := net.ListenPacket(network, address)
			if err != nil {
				log.Fatal(err)
			}
			go datagrams(conn)
		} else {
			l, err := net.Listen(network, address)
			if err != nil {
				log.Fatal(err)
			}
			go connections(l)
		}
	}
	select {}
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
