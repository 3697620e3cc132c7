package network

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
)

const (
	// maxFrame bounds a frame from the hypervisor in bytes. It is the size of
	// QEMU's own buffer for one (NET_BUFSIZE in include/net/net.h).
	maxFrame = 4<<10 + 64<<10

	// maxQueued bounds, in bytes, what waits for the hypervisor to read it.
	maxQueued = 2 << 20

	// maxStall is how long a sender waits for room in the queue before its
	// packet is lost. A guest that is only slow makes room sooner; a paused one
	// does not, and must not hold up the stack's locks.
	maxStall = 250 * time.Millisecond
)

// A wire is one connection of the hypervisor. Frames to the guest queue up and
// leave in one write per wakeup of the writer.
type wire struct {
	conn net.Conn

	mu     sync.Mutex
	change sync.Cond // of anything below
	queue  []*stack.PacketBuffer
	queued int // bytes in the queue and in the write under way
	dead   bool
}

func newWire(conn net.Conn) *wire {
	if u, ok := conn.(*net.UnixConn); ok {
		// Larger buffers mean fewer switches between the two processes. The
		// kernel caps them at its own limit.
		_ = u.SetWriteBuffer(1 << 20)
		_ = u.SetReadBuffer(1 << 20)
	}
	w := &wire{conn: conn}
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
	err := w.read(deliver)
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
	_ = w.conn.Close()
	w.change.Broadcast()
}

func (w *wire) read(deliver func(*buffer.View)) error {
	r := bufio.NewReaderSize(w.conn, 256<<10)
	var head [4]byte
	for {
		if _, err := io.ReadFull(r, head[:]); err != nil {
			return fmt.Errorf("reading a frame's length: %w", err)
		}
		size := binary.BigEndian.Uint32(head[:])
		if size > maxFrame {
			return fmt.Errorf("reading a frame: %d bytes, at most %d", size, maxFrame)
		}
		if size == 0 {
			continue
		}
		frame := buffer.NewViewSize(int(size))
		if _, err := io.ReadFull(r, frame.AsSlice()); err != nil {
			frame.Release()
			return fmt.Errorf("reading a frame: %w", err)
		}
		deliver(frame)
	}
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
	var (
		batch []*stack.PacketBuffer
		heads []byte
		vecs  net.Buffers
	)
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

		if need := 4 * len(batch); cap(heads) < need {
			heads = make([]byte, 2*need)
		}
		vecs = vecs[:0]
		size := 0
		for i, pkt := range batch {
			head := heads[4*i : 4*i+4 : 4*i+4]
			binary.BigEndian.PutUint32(head, uint32(pkt.Size()))
			vecs = appendViews(append(vecs, head), pkt)
			size += pkt.Size()
		}
		rest := vecs // WriteTo moves its receiver along
		_, err := rest.WriteTo(w.conn)
		release(batch)
		clear(vecs)

		w.mu.Lock()
		w.queued -= size
		w.change.Broadcast()
		w.mu.Unlock()
		if err != nil {
			w.close()
		}
	}
}

// appendViews appends the packet's bytes without copying them.
func appendViews(vecs net.Buffers, pkt *stack.PacketBuffer) net.Buffers {
	views, skip := pkt.AsViewList()
	for v := views.Front(); v != nil; v = v.Next() {
		b := v.AsSlice()
		if skip >= len(b) {
			skip -= len(b)
			continue
		}
		vecs = append(vecs, b[skip:])
		skip = 0
	}
	return vecs
}

func release(pkts []*stack.PacketBuffer) {
	for i, pkt := range pkts {
		pkt.DecRef()
		pkts[i] = nil
	}
}
