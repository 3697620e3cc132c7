package engine

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"reflect"
	"slices"
	"strings"
	"syscall"

	"github.com/hyve-vm/hyve/internal/guest/wholefile"
	"github.com/hyve-vm/hyve/internal/guestapi"
)

// Identify tells a running dockerd of the machine's identity, as far as that concerns it.
func (e *Engine) Identify(id guestapi.Identity) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if !e.started {
		_, err := e.trustCAs(id.Surroundings.CAs)
		return err
	}
	if sameToEngine(e.id, id) {
		e.id = id
		return nil
	}
	return e.update(id)
}

// sameToEngine tells whether dockerd need not hear of b after a.
func sameToEngine(a, b guestapi.Identity) bool {
	return a.Network.MTU == b.Network.MTU && a.Network.Host == b.Network.Host && a.Surroundings.CAs == b.Surroundings.CAs &&
		reflect.DeepEqual(a.Surroundings.Registries, b.Surroundings.Registries) && maps.Equal(a.Proxies, b.Proxies) && slices.Equal(a.Labels, b.Labels) &&
		slices.Equal(a.RegistryMirrors, b.RegistryMirrors) && slices.Equal(a.InsecureRegistries, b.InsecureRegistries)
}

// Refresh has a running dockerd know what its user has changed since it was told of it.
// Before a freeze, so that nobody has to look for it after the thaw.
func (e *Engine) Refresh() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if !e.started {
		return nil
	}
	return e.update(e.id)
}

// update tells a running dockerd of what there is to know: by a reload where that is
// enough, else by another start that leaves the containers running. The caller holds mu.
func (e *Engine) update(id guestapi.Identity) error {
	before := e.launched
	old, _ := os.ReadFile(daemonJSON)
	cas, err := openWitness(e.cas())
	if err != nil {
		return fmt.Errorf("looking at what dockerd trusts: %w", err)
	}
	err = e.prepare(id)
	if !cas.read() { // it has yet to read whom to trust, and will read the new ones
		before.cas = e.launched.cas
	}
	if err != nil {
		return err
	}
	if !e.launched.equal(before) {
		return e.relaunch()
	}
	if now, _ := os.ReadFile(daemonJSON); string(now) != string(old) {
		return e.reload()
	}
	return nil
}

// reload has dockerd read daemon.json again and waits until it has, which it
// tells on its stream of events.
func (e *Engine) reload() error {
	if state, _ := e.dockerd.watch(); !state.ready {
		return nil // it reads the file when it starts
	}
	events, err := ask(Socket, "GET", "/events?filters=%7B%22type%22%3A%5B%22daemon%22%5D%7D", dockerdReload)
	if err != nil {
		return fmt.Errorf("reloading dockerd: %w", err)
	}
	defer events.Close()
	e.dockerd.signal(syscall.SIGHUP)
	lines := bufio.NewScanner(events)
	for lines.Scan() {
		if strings.Contains(lines.Text(), `"reload"`) {
			return nil
		}
	}
	return fmt.Errorf("reloading dockerd: it has not confirmed within %v: %w", dockerdReload, lines.Err())
}

// relaunch starts dockerd again under its running containers. dockerd leaves
// them alone when it has been told to "live-restore", which must not hold at a
// shutdown, so it is switched on for the restart alone.
func (e *Engine) relaunch() error {
	final, err := os.ReadFile(daemonJSON)
	if err != nil {
		return fmt.Errorf("restarting dockerd: %w", err)
	}
	var keys map[string]any
	if err := json.Unmarshal(final, &keys); err != nil {
		return fmt.Errorf("restarting dockerd: %w", err)
	}
	l := e.launch.Load()
	asFlag := slices.ContainsFunc(l.flags, func(f string) bool { return strings.HasPrefix(f, "--live-restore") })
	if !asFlag {
		keys["live-restore"] = true // unless a flag says something, which the file must not repeat
	}
	lasting, err := json.Marshal(keys)
	if err != nil {
		return fmt.Errorf("restarting dockerd: %w", err)
	}
	if err := wholefile.Write(daemonJSON, lasting, 0o644); err != nil {
		return err
	}
	if err := e.reload(); err != nil {
		return err
	}
	if err := e.dockerd.restart(dockerdRestart); err != nil {
		return err
	}
	err = e.dockerd.awaitReady(dockerdStart)
	// Whatever came of it, the next shutdown is to stop the containers.
	if err := errors.Join(err, wholefile.Write(daemonJSON, final, 0o644)); err != nil {
		return err
	}
	return e.reload()
}
