package supervisor

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"syscall"
	"time"

	"github.com/hyve-vm/hyve/internal/control"
	"github.com/hyve-vm/hyve/internal/guestapi"
)

// Stats implements control.Supervisor.
func (s *supervisor) Stats(ctx context.Context) (control.Stats, error) {
	status, _ := s.board.get()
	stats := control.Stats{At: time.Now()}
	if status.Endpoints.TCP != "" { // the network is there
		stats.NetworkIn, stats.NetworkOut = s.net.Bytes()
	}
	for _, pid := range []int{os.Getpid(), status.HypervisorID} {
		if pid == 0 {
			continue
		}
		p, err := usageOf(pid)
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ESRCH) {
			continue // it has just fallen asleep
		}
		if err != nil {
			return stats, fmt.Errorf("looking at process %d: %w", pid, err)
		}
		stats.CPUTime += p.cpu
		stats.HostMemoryOwn += p.own
		stats.HostMemoryShared += p.shared
	}
	if status.State != control.Running || status.Asleep {
		return stats, nil
	}
	// One that is being frozen does not answer.
	if reply, err := s.guest.inquire(ctx, guestapi.Request{Usage: &struct{}{}}); err == nil && reply.Usage != nil {
		stats.GuestMemoryTotal, stats.GuestMemoryUsed = reply.Usage.MemoryTotal, reply.Usage.MemoryUsed
	}
	return stats, ctx.Err()
}

// processUsage is what a process uses: processor time and, in bytes, memory that is its
// own or that it shares with others.
type processUsage struct {
	cpu         time.Duration
	own, shared int64
}
