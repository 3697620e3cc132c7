package main

import (
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"time"
)

// payload is how much is sent each way, in bytes.
const payload = 200 << 20

// port is the one that the container publishes.
const port = "5001"

// throughput measures a published port of the machine, in and out.
func (b *bench) throughput() error {
	address, err := b.output(b.hyve, "ip", name)
	if err != nil {
		return err
	}
	return b.measure("forward", b.onMachine, net.JoinHostPort(strings.TrimSpace(address), port), "host.docker.internal")
}

// measure sends payload to a container through its published port and has it
// send as much to the host, and notes the bytes a second. docker runs docker
// against the VM, whose published port is at address; the container sees the host
// as host.
func (b *bench) measure(what string, docker func(...string) (string, error), address, host string) error {
	// The container says how much it got, so that what is under way counts as such,
	// and does nothing with it: under emulation even counting costs more than the
	// network.
	id, err := docker("run", "-d", "-p", port+":"+port, "busybox", "nc", "-l", "-p", port, "-e", "sh", "-c", "dd of=/dev/null bs=128k iflag=fullblock 2>&1")
	if err != nil {
		return err
	}
	defer docker("rm", "-f", strings.TrimSpace(id))
	rate, err := sendTo(address)
	if err != nil {
		return fmt.Errorf("%s-in: %w", what, err)
	}
	b.note(what+"-in", rate)

	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	defer l.Close()
	_, own, _ := net.SplitHostPort(l.Addr().String())
	result := make(chan error, 1)
	go func() {
		rate, err := receive(l)
		if err == nil {
			b.note(what+"-out", rate)
		}
		result <- err
	}()
	script := fmt.Sprintf("dd if=/dev/zero bs=128k count=%d 2>/dev/null | nc %s %s", payload/(128<<10), host, own)
	if _, err := docker("run", "--rm", "busybox", "sh", "-c", script); err != nil {
		return err
	}
	return <-result
}

// sendTo sends payload and waits for the answer that it has arrived.
func sendTo(address string) (rate float64, err error) {
	conn, err := dialSoon(address)
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	buffer := make([]byte, 128<<10)
	began := time.Now()
	for range payload / len(buffer) {
		if _, err := conn.Write(buffer); err != nil {
			return 0, err
		}
	}
	if err := conn.(*net.TCPConn).CloseWrite(); err != nil {
		return 0, err
	}
	answer, err := io.ReadAll(conn)
	if err != nil || !strings.HasPrefix(string(answer), fmt.Sprintf("%d+0 records", payload/len(buffer))) {
		return 0, fmt.Errorf("answer %q, %w", answer, errors.Join(err, errors.New("not all arrived")))
	}
	return payload / time.Since(began).Seconds(), nil
}

// dialSoon connects to a container that has just been started: its program may
// not listen yet.
func dialSoon(address string) (conn net.Conn, err error) {
	for range 100 {
		if conn, err = net.DialTimeout("tcp", address, time.Second); err == nil {
			// A forwarder accepts before the container does, and hangs up then.
			conn.SetReadDeadline(time.Now().Add(300 * time.Millisecond))
			var netErr net.Error
			if _, err = conn.Read(make([]byte, 1)); errors.As(err, &netErr) && netErr.Timeout() {
				conn.SetReadDeadline(time.Time{})
				return conn, nil
			}
			conn.Close()
		}
		time.Sleep(100 * time.Millisecond)
	}
	return nil, err
}

func receive(l net.Listener) (rate float64, err error) {
	conn, err := l.Accept()
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	began := time.Now()
	n, err := io.Copy(io.Discard, conn)
	if err == nil && n != payload {
		err = fmt.Errorf("%d bytes arrived, want %d", n, payload)
	}
	return float64(n) / time.Since(began).Seconds(), err
}
