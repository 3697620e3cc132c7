package machinestore

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"os/exec"
	"strings"
	"time"
)

// askTimeout bounds how long VirtualBox may take to answer.
const askTimeout = 20 * time.Second

// Running says in words by what a machine seems to run, "" if it does not. Of xhyve's
// machines it is told by the process in their PID file, of VirtualBox's by VBoxManage; where
// there is none, nothing can run.
func (s Store) Running(ctx context.Context, h *Host, vm *VM) (string, error) {
	if vm.Pid != 0 {
		return fmt.Sprintf("process %d of its PID file lives", vm.Pid), nil
	}
	if h.DriverName != "virtualbox" {
		return "", nil
	}
	program, err := exec.LookPath("VBoxManage")
	if err != nil {
		return "", nil
	}
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	out, err := exec.CommandContext(ctx, program, "showvminfo", h.Name, "--machinereadable").Output()
	if err != nil {
		return "", fmt.Errorf("asking VirtualBox for %s: %w", h.Name, err)
	}
	if state := vmState(out); state == "running" || state == "paused" {
		return "VirtualBox says it is " + state, nil
	}
	return "", nil
}

// vmState is the machine's state in what VBoxManage says of it, "" if none.
func vmState(out []byte) string {
	for lines := bufio.NewScanner(bytes.NewReader(out)); lines.Scan(); {
		if state, ok := strings.CutPrefix(lines.Text(), `VMState="`); ok {
			return strings.TrimSuffix(state, `"`)
		}
	}
	return ""
}
