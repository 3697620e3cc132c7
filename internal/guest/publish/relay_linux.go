package publish

import (
	"fmt"
	"net/netip"
	"os"
	"sync"
	"syscall"

	"github.com/hyve-vm/hyve/internal/guest/outbox"
	"github.com/hyve-vm/hyve/internal/guest/process"
)

// relays serve to the host what listens in the guest on IPv6 alone, since the host comes by
// IPv4: a docker-proxy each, of TCP or UDP, on a free port of the guest's card.
type relays struct {
	// start starts one, which leads to a port of the guest's, and returns where it listens.
	start   func(card netip.Addr, to publication) (*process.Process, uint16, error)
	logf    func(string, ...any)
	running map[publication]relay
}

// A relay that could not be started is kept without a proxy, so that it is not tried again
// while its listener is there.
type relay struct {
	proxy *process.Process
	port  uint16
}

// maxRelays bounds what they take: some 4 MiB each.
const maxRelays = 64

func newRelays(r *process.Reaper, out *outbox.Outbox) *relays {
	start := func(card netip.Addr, to publication) (*process.Process, uint16, error) {
		return startRelay(r, card, to)
	}
	return &relays{start: start, logf: out.Logf, running: map[publication]relay{}}
}

// follow has a relay run for each of the publications that needs one, and no other. It
// returns on which port of the guest.
func (r *relays) follow(card netip.Addr, wanted []publication) map[publication]uint16 {
	var missing []publication
	needed := map[publication]bool{}
	for _, p := range wanted {
		if p.target == "" || needed[p] {
			continue
		}
		needed[p] = true
		if one, ok := r.running[p]; !ok || one.proxy != nil && one.proxy.Ended() {
			missing = append(missing, p)
		}
	}
	for p, one := range r.running {
		if !needed[p] {
			one.stop()
			delete(r.running, p)
		}
	}
	r.begin(card, missing)
	ports := map[publication]uint16{}
	for p, one := range r.running {
		ports[p] = one.port
	}
	return ports
}

// begin starts relays, at the same time.
func (r *relays) begin(card netip.Addr, missing []publication) {
	room := max(maxRelays-len(r.running), 0)
	if len(missing) > room {
		r.logf("publishing port %d, which listens on IPv6 alone: there are %d such ports already, which is the most", missing[room].port, maxRelays)
		missing = missing[:room]
	}
	started := make([]relay, len(missing))
	var all sync.WaitGroup
	for i, p := range missing {
		all.Go(func() {
			proxy, port, err := r.start(card, p)
			if err != nil {
				r.logf("publishing port %d, which listens on IPv6 alone: %v", p.port, err)
			}
			started[i] = relay{proxy, port}
		})
	}
	all.Wait()
	for i, p := range missing {
		r.running[p] = started[i]
	}
}

// has tells whether a relay listens on the port.
func (r *relays) has(protocol string, port uint16) bool {
	for p, one := range r.running {
		if p.protocol == protocol && one.port == port {
			return true
		}
	}
	return false
}

func (r relay) stop() {
	if r.proxy != nil {
		r.proxy.Signal(syscall.SIGKILL, false)
	}
}

// startRelay starts docker-proxy, and returns when it listens.
func startRelay(r *process.Reaper, card netip.Addr, to publication) (*process.Process, uint16, error) {
	port, err := freePort(to.protocol, 0)
	if err != nil {
		return nil, 0, err
	}
	target, err := netip.ParseAddrPort(to.target)
	if err != nil {
		return nil, 0, err
	}
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return nil, 0, err
	}
	defer null.Close()
	call := proxyCall{publication: to, args: []string{"-container-ip", target.Addr().String(), "-container-port", fmt.Sprint(target.Port())}}
	var proxy *process.Process
	err = startProxy(call.at(grant{card.String(), port}), []*os.File{null, null, null}, func(path string, argv []string, attr *os.ProcAttr) (err error) {
		proxy, err = r.StartFile(path, argv, attr)
		return err
	})
	if err != nil && proxy != nil {
		proxy.Signal(syscall.SIGKILL, false)
	}
	if err != nil {
		return nil, 0, err
	}
	return proxy, port, nil
}
