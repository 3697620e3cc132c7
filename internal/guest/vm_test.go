//go:build linux

package guest

import (
	"strings"
	"testing"
	"time"

	"github.com/hyve-vm/hyve/internal/guestapi"
)

func TestMachine(t *testing.T) {
	pki := newTestPKI(t, "first")
	config := guestapi.Config{Identity: pki.identity("first"), Engine: guestapi.Engine{ID: "11111111-2222-3333-4444-555555555555"}}
	vm := startVM(t, t.TempDir(), pki, config)
	vm.await(90*time.Second, func(e guestapi.Event) bool { return e.EngineReady != nil })
	if answer := vm.api("GET", "/_ping", ""); !strings.HasSuffix(answer, "OK") {
		t.Errorf("ping answered %q", answer)
	}
	t.Logf("exec to ping: %.2f s", time.Since(vm.started).Seconds())
	t.Log(vm.run("id; hostname; sudo id -u; cat /proc/self/cgroup; df -h; sudo dmesg | tail -20"))
	vm.w.Write(guestapi.Request{ID: 99, Shutdown: &guestapi.Shutdown{}})
	vm.await(60*time.Second, func(e guestapi.Event) bool { return e.PowerOff != nil })
	select {
	case <-vm.exited:
	case <-time.After(20 * time.Second):
		t.Error("the machine has not powered off")
	}
}
