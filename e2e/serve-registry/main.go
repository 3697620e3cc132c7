// Command serve-registry serves the tests' registry on loopback until its
// standard input ends, and prints its address.
package main

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"os"

	"github.com/hyve-vm/hyve/e2e/testregistry"
)

func main() {
	if err := serve(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "serve-registry:", err)
		os.Exit(1)
	}
}

func serve(args []string) error {
	if len(args) != 1 {
		return fmt.Errorf("usage: serve-registry PATH-OF-STATIC-BUSYBOX")
	}
	handler, err := testregistry.New(args[0])
	if err != nil {
		return err
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	fmt.Println(l.Addr())
	go func() {
		io.Copy(io.Discard, os.Stdin)
		l.Close()
	}()
	http.Serve(l, handler)
	return nil
}
