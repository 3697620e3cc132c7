package network

import (
	"sync"
	"time"

	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
)

const (
	// maxQueued bounds, in bytes, what waits for the hypervisor to read it.
	maxQueued = 2 << 20

	// maxStall is how long a sender waits for room in the queue before its
	// packet is lost. A guest that is only slow makes room sooner; a paused one
	// does not, and must not hold up the stack's locks.
	maxStall = 250 * time.Millisecond
)

// A wire is one connection of the hypervisor. Frames to the guest queue up and
// leave together at each wakeup of the writer.
type wire struct {
	frames framing

	mu     sync.Mutex
	change sync.Cond // of anything below
	queue  []*stack.PacketBuffer
	queued int // bytes in the queue and in the write under way
	dead   bool
}

func newWire(frames framing) *wire {
	w := &wire{frames: frames}
	w.change.L = &w.mu
	return w
}

// run moves frames until the connection ends, and says why it did. deliver
// takes over every frame.
func (w *wire) run(deliver func(*buffer.View)) error {
	done := make(chan struct{})
	go func() {
		defer close(done)
		w.write()
	}()
	err := w.frames.read(deliver)
	w.close()
	<-done
	return err
}

func (w *wire) close() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.dead {
		return
	}
	w.dead = true
	w.frames.close()
	w.change.Broadcast()
}

// send queues packets that have their Ethernet header.
func (w *wire) send(pkts []*stack.PacketBuffer) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, pkt := range pkts {
		if !w.waitForRoom() {
			return
		}
		w.queue = append(w.queue, pkt.IncRef())
		w.queued += pkt.Size()
	}
	w.change.Broadcast()
}

// waitForRoom returns false if there will be none. It is called with w.mu held.
func (w *wire) waitForRoom() bool {
	if w.dead || w.queued < maxQueued {
		return !w.dead
	}
	w.change.Broadcast() // the writer may not know of the queue yet
	start := time.Now()
	timer := time.AfterFunc(maxStall, func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.change.Broadcast()
	})
	defer timer.Stop()
	for !w.dead && w.queued >= maxQueued {
		if time.Since(start) >= maxStall {
			return false
		}
		w.change.Wait()
	}
	return !w.dead
}

// write sends what queues up until the connection ends.
func (w *wire) write() {
	var batch []*stack.PacketBuffer
	for {
		w.mu.Lock()
		for len(w.queue) == 0 && !w.dead {
			w.change.Wait()
		}
		if w.dead {
			release(w.queue)
			w.queue = nil
			w.mu.Unlock()
			return
		}
		batch, w.queue = w.queue, batch[:0]
		w.mu.Unlock()

		size := 0
		for _, pkt := range batch {
			size += pkt.Size()
		}
		err := w.frames.write(batch)
		release(batch)

		w.mu.Lock()
		w.queued -= size
		w.change.Broadcast()
		w.mu.Unlock()
		if err != nil {
			w.close()
		}
	}
}

func release(pkts []*stack.PacketBuffer) {
	for i, pkt := range pkts {
		pkt.DecRef()
		pkts[i] = nil
	}
}
