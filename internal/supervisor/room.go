package supervisor

import (
	"context"
	"time"

	"github.com/hyve-vm/hyve/internal/hypervisor"
)

// errorPause is how often a VM that the host's full disk has paused is resumed,
// to see whether there is room again. Nothing tells when there is.
const errorPause = 5 * time.Second

// room is what helps a VM over a full disk of the host: it is paused at the first write
// that fails, and repeats that write when it goes on, so nothing is lost.
type room struct{ retry, solved *time.Timer }

const noRoom = "the host's disk cannot be written to, and the machine is paused until there is room on it"

// wait has a VM try again after a while.
func (r *room) wait(board *board, vm hypervisor.VM) {
	r.stop()
	board.problem(noRoom)
	r.retry = time.AfterFunc(errorPause, func() { vm.Retry(context.Background()) })
}

// found takes the problem back soon, unless the write fails again.
func (r *room) found(board *board) {
	r.stop()
	r.solved = time.AfterFunc(errorPause/2, func() { board.solved(noRoom) })
}

func (r *room) stop() {
	for _, timer := range []*time.Timer{r.retry, r.solved} {
		if timer != nil {
			timer.Stop()
		}
	}
}
