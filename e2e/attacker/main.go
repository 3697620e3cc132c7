// Command attacker makes connections and misuses them. The tests run it in containers
// and as another user of the host.
//
//	attacker hold ADDRESS N     N connections on which it says nothing
//	attacker fill ADDRESS N     N connections into which it writes all they take, for
//	                            20 seconds at most
//	attacker dial ADDRESS N     N connections that it begins, and waits for
//	attacker listen ADDRESS     accepts connections, and never reads
//
// It prints "ready K", with the number of connections that it has, and keeps them until it
// is killed.
package main

import (
	"fmt"
	"log"
	"net"
	"os"
	"runtime"
	"strconv"
	"sync"
	"sync/atomic"
	"time"
)

func main() {
	log.SetFlags(0)
	log.SetPrefix("attacker: ")
	deed, address := os.Args[1], os.Args[2]
	if deed == "listen" {
		log.Fatal(listen(address))
	}
	n, err := strconv.Atoi(os.Args[3])
	if err != nil {
		log.Fatal(err)
	}
	if deed == "dial" {
		dial(address, n)
	}
	conns := connect(address, n, deed == "fill")
	fmt.Println("ready", len(conns))
	for {
		time.Sleep(time.Hour)
		runtime.KeepAlive(conns)
	}
}

// listen keeps what comes, unread.
func listen(address string) error {
	l, err := net.Listen("tcp", address)
	if err != nil {
		return err
	}
	fmt.Println("ready 0")
	var kept []net.Conn
	for {
		conn, err := l.Accept()
		if err != nil {
			return err
		}
		kept = append(kept, conn)
		runtime.KeepAlive(kept)
	}
}

// dial begins n connections, all at once, and says so.
func dial(address string, n int) {
	for range n {
		go func() {
			for {
				conn, err := net.Dial("tcp", address)
				if err == nil {
					conn.Close()
				}
			}
		}()
	}
	fmt.Println("ready 0")
	select {}
}

// connect makes n connections, a hundred at a time, and returns those that there are.
func connect(address string, n int, fill bool) []net.Conn {
	var mu sync.Mutex
	var kept []net.Conn
	var left atomic.Int64
	left.Store(int64(n))
	end := time.Now().Add(20 * time.Second)
	var all sync.WaitGroup
	for range min(n, 100) {
		all.Go(func() {
			for left.Add(-1) >= 0 {
				conn, err := net.DialTimeout("tcp", address, 10*time.Second)
				if err != nil {
					continue
				}
				if fill {
					fillUp(conn, end)
				}
				mu.Lock()
				kept = append(kept, conn)
				mu.Unlock()
			}
		})
	}
	all.Wait()
	return kept
}

// fillUp writes until nothing has gone for a second, or the end has come.
func fillUp(conn net.Conn, end time.Time) {
	block := make([]byte, 64<<10)
	for time.Now().Before(end) {
		conn.SetWriteDeadline(time.Now().Add(time.Second))
		if n, err := conn.Write(block); err != nil && n == 0 {
			return
		}
	}
}
