package network

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"syscall"
	"time"

	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
)

// maxFrame bounds a frame from the hypervisor in bytes: the largest MTU and then some.
const maxFrame = 4<<10 + 64<<10

// A framing tells one frame of a hypervisor from the next.
type framing interface {
	// read passes on frames until the connection ends, and says why it did. deliver takes
	// over every frame.
	read(deliver func(*buffer.View)) error
	// write sends packets that have their Ethernet header. One goroutine calls it.
	write(batch []*stack.PacketBuffer) error
	// close ends both.
	close()
}

// buffered gives a socket larger buffers, which mean fewer switches between the two
// processes. The kernel caps them at its own limit.
func buffered(conn net.Conn) {
	if u, ok := conn.(*net.UnixConn); ok {
		_ = u.SetWriteBuffer(1 << 20)
		_ = u.SetReadBuffer(1 << 20)
	}
}

// A byteStream has 32 bits of length, big endian, before each frame.
type byteStream struct {
	conn  net.Conn
	heads []byte
	vecs  net.Buffers
}

func newByteStream(conn net.Conn) *byteStream {
	buffered(conn)
	return &byteStream{conn: conn}
}

func (s *byteStream) close() { _ = s.conn.Close() }

func (s *byteStream) read(deliver func(*buffer.View)) error {
	r := bufio.NewReaderSize(s.conn, 256<<10)
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

// write copies no packet and is one system call for all of them.
func (s *byteStream) write(batch []*stack.PacketBuffer) error {
	if need := 4 * len(batch); cap(s.heads) < need {
		s.heads = make([]byte, 2*need)
	}
	s.vecs = s.vecs[:0]
	for i, pkt := range batch {
		head := s.heads[4*i : 4*i+4 : 4*i+4]
		binary.BigEndian.PutUint32(head, uint32(pkt.Size()))
		s.vecs = appendViews(append(s.vecs, head), pkt)
	}
	rest := s.vecs // WriteTo moves its receiver along
	_, err := rest.WriteTo(s.conn)
	clear(s.vecs)
	return err
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

// datagrams has each frame in one of its own. All hypervisors, one after the other, send to
// the same socket, each from one that is bound to a path.
type datagrams struct {
	conn *net.UnixConn // not connected
	peer string        // the path of the hypervisor that is served
	next string        // and of another one, which has sent a datagram
	in   []byte
	out  []byte
	vecs net.Buffers
}

func newDatagrams(conn *net.UnixConn) *datagrams {
	buffered(conn)
	return &datagrams{conn: conn, in: make([]byte, maxFrame+1)}
}

// accept waits for a hypervisor's first datagram, which is a greeting: who sends one that is
// a frame sends that again.
func (d *datagrams) accept() error {
	_ = d.conn.SetDeadline(time.Time{})
	d.peer, d.next = d.next, ""
	for d.peer == "" {
		_, from, err := d.conn.ReadFromUnix(d.in)
		if err != nil {
			return err
		}
		if from != nil {
			d.peer = from.Name
		}
	}
	return nil
}

// close ends read and write, and leaves the socket to the next hypervisor.
func (d *datagrams) close() { _ = d.conn.SetDeadline(time.Unix(1, 0)) }

func (d *datagrams) read(deliver func(*buffer.View)) error {
	for {
		size, from, err := d.conn.ReadFromUnix(d.in)
		switch {
		case err != nil:
			return fmt.Errorf("reading a frame: %w", err)
		case from == nil || from.Name == "":
			continue // whom nobody could answer
		case from.Name != d.peer:
			d.next = from.Name
			return errors.New("another VM has come")
		case size == 0 || size > maxFrame:
			continue
		}
		deliver(buffer.NewViewWithData(d.in[:size]))
	}
}

func (d *datagrams) write(batch []*stack.PacketBuffer) error {
	to := &net.UnixAddr{Name: d.peer, Net: "unixgram"}
	for _, pkt := range batch {
		d.vecs, d.out = appendViews(d.vecs[:0], pkt), d.out[:0]
		for _, part := range d.vecs {
			d.out = append(d.out, part...)
		}
		clear(d.vecs)
		if err := d.writeFrame(to); err != nil {
			return err
		}
	}
	return nil
}

// writeFrame sends one frame, which is lost if there is no room for it within maxStall.
func (d *datagrams) writeFrame(to *net.UnixAddr) error {
	for began := time.Now(); ; time.Sleep(time.Millisecond) {
		_, err := d.conn.WriteToUnix(d.out, to)
		// macOS says so where others wait, and tells nobody when there is room again.
		if !errors.Is(err, syscall.ENOBUFS) {
			return err
		}
		if time.Since(began) > maxStall {
			return nil
		}
	}
}
