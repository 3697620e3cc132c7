// Package driver is hyve as a driver of docker-machine: the plugin
// docker-machine-driver-xhyve, which docker-machine starts, once for each machine and
// command, and asks over net/rpc on a port of localhost.
//
// The protocol is that of libmachine/drivers/plugin and libmachine/drivers/rpc of
// docker/machine 0.16.2 and rancher/machine 0.15.
package driver

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/rpc"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/hyve-vm/hyve/internal/accept"
	"github.com/hyve-vm/hyve/internal/terminal"
)

// apiVersion is the version of the protocol that every docker-machine speaks.
const apiVersion = 1

// What docker-machine sets in a plugin's environment.
const (
	tokenVariable = "MACHINE_PLUGIN_TOKEN"
	token         = "42"
	nameVariable  = "MACHINE_PLUGIN_DRIVER_NAME"
)

// programPrefix begins the names of plugins.
const programPrefix = "docker-machine-driver-"

// heartbeatTimeout is how long a client may be silent, which sends a sign of life
// every five seconds. It is gone then.
const heartbeatTimeout = 10 * time.Second

// Called tells whether a program of that name is a plugin.
func Called(argv0 string) bool {
	return strings.HasPrefix(filepath.Base(argv0), programPrefix)
}

// Main serves docker-machine until that has what it wants, and returns the exit
// status. Its arguments count for nothing: some clients pass their own.
func Main(argv0 string) int {
	if os.Getenv(tokenVariable) != token {
		fmt.Fprintf(terminal.Clean(os.Stderr), "%s is a plugin of docker-machine, which starts it itself: docker-machine create --driver %s NAME (API version: %d)\n",
			filepath.Base(argv0), driverName(argv0), apiVersion)
		return 1
	}
	// A client that has died must not take the plugin with it by a mere line of output:
	// what it began is to be cleared away.
	signal.Ignore(syscall.SIGPIPE)
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	d := &driver{name: driverName(argv0), getenv: os.Getenv, say: printer(terminal.Clean(os.Stdout))}
	if err := serve(ctx, d); err != nil {
		fmt.Fprintf(terminal.Clean(os.Stderr), "%s: %v\n", filepath.Base(argv0), err)
		return 1
	}
	return 0
}

// driverName is the name by which docker-machine knows this driver.
func driverName(argv0 string) string {
	if name, ok := strings.CutPrefix(filepath.Base(argv0), programPrefix); ok && name != "" {
		return name
	}
	if name := os.Getenv(nameVariable); name != "" {
		return name
	}
	return "xhyve"
}

// maxClients bounds the connections at one time.
const maxClients = 64

// serve tells one client where it listens, and answers it.
func serve(ctx context.Context, d *driver) error {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return fmt.Errorf("listening for docker-machine: %w", err)
	}
	defer l.Close()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	s := &Server{ctx: ctx, driver: d, closed: make(chan struct{}, 1), alive: make(chan struct{}, 1)}
	r := rpc.NewServer()
	for _, service := range []string{"RPCServerDriver", "RpcServerDriver"} { // the latter before docker-machine 0.5.1
		if err := r.RegisterName(service, s); err != nil {
			return fmt.Errorf("serving docker-machine: %w", err)
		}
	}
	mux := http.NewServeMux()
	mux.Handle(rpc.DefaultRPCPath, r)
	// One client, of a few connections.
	door := accept.Door{Budgets: []*accept.Budget{accept.NewBudget(maxClients, maxClients)}}
	go http.Serve(door.Listener(l), mux)
	d.say(l.Addr().String())
	err = s.await(ctx)
	// What is under way is called off and clears up behind itself.
	cancel()
	s.calls.Wait()
	return err
}

// A Server answers docker-machine's calls. Each method takes and gives what the one of
// that name of libmachine's RPCServerDriver does.
type Server struct {
	ctx    context.Context // ends with the client; calls have none of their own
	driver *driver
	closed chan struct{} // the client has what it wants
	alive  chan struct{} // the client is there
	calls  sync.WaitGroup
}

// await returns nil once the client is done, or else why there is none any more.
func (s *Server) await(ctx context.Context) error {
	silence := time.NewTimer(heartbeatTimeout)
	for {
		select {
		case <-s.closed:
			return nil
		case <-s.alive:
			silence.Reset(heartbeatTimeout)
		case <-silence.C:
			return errors.New("docker-machine is gone")
		case <-ctx.Done():
			return errors.New("interrupted")
		}
	}
}

// do runs a call that takes its time.
func (s *Server) do(f func(context.Context) error) (err error) {
	s.calls.Add(1)
	defer s.calls.Done()
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("hyve has a bug: %v", r)
		}
	}()
	return f(s.ctx)
}

// The names and signatures of net/rpc. The empty arguments are libmachine's.
type none = struct{}

func signalTo(c chan struct{}) {
	select {
	case c <- none{}:
	default:
	}
}

func answer[T any](into *T, value T, err error) error {
	*into = value
	return err
}

// Close ends the plugin.
func (s *Server) Close(none, *none) error { signalTo(s.closed); return nil }

// Heartbeat says that the client is there.
func (s *Server) Heartbeat(none, *none) error { signalTo(s.alive); return nil }

// GetVersion returns the version of the protocol.
func (s *Server) GetVersion(_ none, version *int) error { *version = apiVersion; return nil }

// DriverName returns the driver's name.
func (s *Server) DriverName(_ none, name *string) error { *name = s.driver.name; return nil }

// GetConfigRaw returns what docker-machine is to keep, as JSON.
func (s *Server) GetConfigRaw(_ none, config *[]byte) error {
	data, err := s.driver.configRaw()
	return answer(config, data, err)
}

// SetConfigRaw takes what docker-machine has kept.
func (s *Server) SetConfigRaw(config []byte, _ *none) error { return s.driver.setConfigRaw(config) }

// GetCreateFlags returns the driver's flags. It touches nothing: docker-machine asks
// for them before there is a machine.
func (s *Server) GetCreateFlags(_ none, flags *[]any) error {
	for _, f := range Flags {
		*flags = append(*flags, f.wire(s.driver.name))
	}
	return nil
}

// SetConfigFromFlags takes the flags of a creation, *FlagValues.
func (s *Server) SetConfigFromFlags(flags *any, _ *none) error {
	values, ok := (*flags).(*FlagValues)
	if !ok {
		return fmt.Errorf("reading the flags: docker-machine sent %T", *flags)
	}
	return s.driver.setFlags(*values)
}

// GetMachineName returns the machine's name.
func (s *Server) GetMachineName(_ none, name *string) error {
	*name = s.driver.now().MachineName
	return nil
}

// GetSSHUsername returns who may log in.
func (s *Server) GetSSHUsername(_ none, name *string) error { *name = "docker"; return nil }

// GetSSHKeyPath returns the file of the key to log in with.
func (s *Server) GetSSHKeyPath(_ none, path *string) error {
	c := s.driver.now()
	*path = c.keyPath()
	return nil
}

// GetSSHHostname returns the address to log in at.
func (s *Server) GetSSHHostname(_ none, host *string) error {
	h, _, err := s.driver.sshEndpoint(s.ctx)
	return answer(host, h, err)
}

// GetSSHPort returns the port to log in at.
func (s *Server) GetSSHPort(_ none, port *int) error {
	_, p, err := s.driver.sshEndpoint(s.ctx)
	return answer(port, p, err)
}

// GetIP returns the machine's address.
func (s *Server) GetIP(_ none, ip *string) error {
	address, err := s.driver.ip(s.ctx)
	return answer(ip, address, err)
}

// GetURL returns where the engine is.
func (s *Server) GetURL(_ none, url *string) error {
	u, err := s.driver.url(s.ctx)
	return answer(url, u, err)
}

// GetState returns libmachine's number of the machine's state.
func (s *Server) GetState(_ none, state *int) error {
	n, err := s.driver.state(s.ctx)
	return answer(state, n, err)
}

// PreCreateCheck is called before anything is kept.
func (s *Server) PreCreateCheck(none, *none) error { return s.driver.preCreateCheck(s.ctx) }

// Create makes the machine.
func (s *Server) Create(none, *none) error { return s.do(s.driver.create) }

// Remove removes the machine.
func (s *Server) Remove(none, *none) error { return s.do(s.driver.remove) }

// Start starts the machine.
func (s *Server) Start(none, *none) error { return s.do(s.driver.start) }

// Stop stops the machine cleanly.
func (s *Server) Stop(none, *none) error { return s.do(s.driver.stop) }

// Restart shuts the machine down and boots it.
func (s *Server) Restart(none, *none) error { return s.do(s.driver.restart) }

// Kill ends the machine like a power cut.
func (s *Server) Kill(none, *none) error { return s.do(s.driver.kill) }
