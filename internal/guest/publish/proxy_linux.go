package publish

import (
	"errors"
	"fmt"
	"net"
	"os"
	"runtime"
	"syscall"
	"time"
)

// ackTimeout bounds how long `docker run` waits for the host to publish a port.
const ackTimeout = 5 * time.Second

// realProxies are where docker-proxy may be; Debian and Docker differ.
var realProxies = []string{"/usr/bin/docker-proxy", "/usr/sbin/docker-proxy", "/usr/libexec/docker/docker-proxy"}

// proxyStatus is the descriptor on which dockerd waits for its proxy's word: "0" and a
// newline when it listens, "1", a newline and the reason when it cannot.
const proxyStatus = 3

// RunProxy stands in for docker-proxy: it tells PID 1 of the port, at its control socket, waits for the
// host, and becomes the real one. The connection to PID 1 stays open across the
// exec, so its end is the proxy's end, however that comes about. What the host refuses is
// refused to dockerd. Whatever else goes wrong on the way is a line in dockerd's log: the
// container gets its port in the guest all the same. It returns only if there is nothing
// to become.
func RunProxy(argv []string, control string) error {
	args := argv[1:]
	call, err := parseProxyCall(args)
	if err == nil {
		var granted grant
		var refused string
		if granted, refused, err = announce(control, call.publication); refused != "" {
			text := call.refusal(refused)
			syscall.Write(proxyStatus, []byte("1\n"+text))
			return errors.New(text)
		}
		switch {
		case err != nil: // docker's own port is better than none
		case call.astray(granted):
			err = proxyBeside(call, granted.port)
		case !call.listenFD:
			args = call.at(granted)
		}
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "hyve-docker-proxy: %v\n", err)
	}
	for _, path := range realProxies {
		err = syscall.Exec(path, append([]string{"docker-proxy"}, args...), os.Environ())
	}
	return fmt.Errorf("running docker-proxy: %w", err)
}

// proxyBeside starts a second docker-proxy, for a port that dockerd has bound to an address
// which the user meant as one of the host: at the guest's own, to which the host's
// connections come. It returns when the port is open. The proxy ends with this process.
func proxyBeside(call proxyCall, port uint16) error {
	address, err := ownAddress()
	if err != nil {
		return fmt.Errorf("publishing port %d: %w", call.port, err)
	}
	// Its parent, at whose death it is killed, is this thread, which exec makes that of
	// the real proxy.
	runtime.LockOSThread()
	err = startProxy(call.at(grant{address, port}), []*os.File{nil, os.Stdout, os.Stderr}, func(path string, argv []string, attr *os.ProcAttr) error {
		attr.Sys = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
		_, err := os.StartProcess(path, argv, attr)
		return err
	})
	if err != nil {
		return fmt.Errorf("publishing port %d at %s: %w", call.port, address, err)
	}
	return nil
}

// startProxy starts the real docker-proxy with these arguments and descriptors, as start
// does it, and returns when it listens.
func startProxy(args []string, files []*os.File, start func(path string, argv []string, attr *os.ProcAttr) error) error {
	ready, told, err := os.Pipe()
	if err != nil {
		return err
	}
	defer ready.Close()
	attr := &os.ProcAttr{Env: os.Environ(), Files: append(files, told)} // the last as dockerd's proxies have it
	for _, path := range realProxies {
		if err = start(path, append([]string{"docker-proxy"}, args...), attr); err == nil {
			break
		}
	}
	told.Close()
	if err != nil {
		return err
	}
	ready.SetReadDeadline(time.Now().Add(ackTimeout))
	answer := make([]byte, 256)
	n, err := ready.Read(answer)
	if err != nil {
		return err
	}
	if text := string(answer[:n]); text != "0\n" {
		return fmt.Errorf("docker-proxy answered %q", text)
	}
	return nil
}

// ownAddress returns the guest's own address: that from which it would speak to the
// world. Nothing is sent.
func ownAddress() (string, error) {
	conn, err := net.Dial("udp4", "192.0.2.1:9")
	if err != nil {
		return "", fmt.Errorf("finding the guest's address: %w", err)
	}
	defer conn.Close()
	return conn.LocalAddr().(*net.UDPAddr).IP.String(), nil
}

// announce tells PID 1 of a port and waits for its answer. It uses bare system
// calls: the descriptor must stay open across exec, and this is on the way of
// every `docker run -p`.
func announce(control string, p publication) (g grant, refused string, err error) {
	fd, err := syscall.Socket(syscall.AF_UNIX, syscall.SOCK_STREAM, 0)
	if err != nil {
		return g, "", fmt.Errorf("publishing port %d: %w", p.port, err)
	}
	// PID 1 bounds the wait for the host; this is for a PID 1 that hangs.
	bound := syscall.NsecToTimeval(int64(ackTimeout + time.Second))
	syscall.SetsockoptTimeval(fd, syscall.SOL_SOCKET, syscall.SO_RCVTIMEO, &bound)
	if err := syscall.Connect(fd, &syscall.SockaddrUnix{Name: control}); err != nil {
		return g, "", fmt.Errorf("publishing port %d: connecting to %s: %w", p.port, control, err)
	}
	if _, err := syscall.Write(fd, []byte(p.portLine()+"\n")); err != nil {
		return g, "", fmt.Errorf("publishing port %d: %w", p.port, err)
	}
	answer := make([]byte, 1024)
	n, err := syscall.Read(fd, answer)
	if err == nil {
		g, refused, err = parseGrant(string(answer[:n]))
	}
	if err != nil {
		return g, "", fmt.Errorf("publishing port %d: %w", p.port, err)
	}
	return g, refused, nil
}
