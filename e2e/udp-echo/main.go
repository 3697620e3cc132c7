// Command udp-echo answers every datagram on port 53 with itself. It runs in a
// container of the tests.
package main

import (
	"log"
	"net"
)

func main() {
	conn, err := net.ListenPacket("udp", ":53")
	if err != nil {
		log.Fatal(err)
	}
	buffer := make([]byte, 64<<10)
	for {
		n, from, err := conn.ReadFrom(buffer)
		if err != nil {
			log.Fatal(err)
		}
		conn.WriteTo(buffer[:n], from)
	}
}
