package guest

import (
	"context"
	"fmt"
	"io"
	"os"
	"syscall"

	"github.com/hyve-vm/hyve/internal/guest/outbox"
	"github.com/hyve-vm/hyve/internal/guestapi"
)

// A port is the virtio-serial port as a stream that survives the host's absence.
// With nobody at the other end the driver answers a read with end-of-file; here
// that waits until somebody comes.
type port struct {
	f    *os.File
	conn syscall.RawConn
}

func newPort(f *os.File) (*port, error) {
	conn, err := f.SyscallConn()
	if err != nil {
		return nil, fmt.Errorf("opening %s: %w", f.Name(), err)
	}
	return &port{f: f, conn: conn}, nil
}

func (p *port) Read(b []byte) (int, error) {
	var n int
	var err error
	waited := p.conn.Read(func(fd uintptr) bool {
		for {
			n, err = syscall.Read(int(fd), b)
			if err != syscall.EINTR {
				break
			}
		}
		return err != syscall.EAGAIN && (err != nil || n > 0)
	})
	if waited != nil {
		return 0, waited
	}
	if err != nil {
		return 0, fmt.Errorf("reading from the host: %w", err)
	}
	return n, nil
}

func (p *port) Write(b []byte) (int, error) { return p.f.Write(b) }

// A channel is the conversation with the host.
type channel struct {
	bootID string
	out    *outbox.Outbox
	handle func(guestapi.Request)
	// greeted is called after each hello is queued, to tell a new host what an
	// earlier one knew. first says that there was no earlier one.
	greeted func(first bool)
}

// serve talks to the host over stream until it fails or ctx ends.
func (c *channel) serve(ctx context.Context, stream io.ReadWriter) error {
	ctx, cancel := context.WithCancelCause(ctx)
	go func() { cancel(c.send(ctx, stream)) }()
	go func() { cancel(c.receive(stream)) }()
	<-ctx.Done()
	return context.Cause(ctx)
}

func (c *channel) send(ctx context.Context, stream io.Writer) error {
	w := guestapi.NewWriter[guestapi.Event](stream)
	for {
		e, err := c.out.Take(ctx)
		if err != nil {
			return err
		}
		if e.Hello != nil {
			if err := w.Resync(); err != nil {
				return fmt.Errorf("writing to the host: %w", err)
			}
		}
		err = w.Write(e)
		c.out.Sent()
		if err != nil {
			return fmt.Errorf("writing to the host: %w", err)
		}
	}
}

func (c *channel) receive(stream io.Reader) error {
	r := guestapi.NewReader[guestapi.Request](stream)
	r.Damaged = func(line []byte) { c.out.Logf("dropping a damaged message of the host: %q", line) }
	first := true
	for {
		req, err := r.Read()
		if err != nil {
			return err
		}
		if req.Hello != nil {
			if err := c.hello(*req.Hello, first); err == nil {
				first = false
			}
			continue
		}
		// A request may take seconds (a new identity that restarts the engine)
		// while later ones, a PortAck, are waited for: handle starts what is long
		// in the background and replies itself.
		c.handle(req)
	}
}

func (c *channel) hello(h guestapi.Hello, first bool) error {
	c.out.Put(guestapi.Event{Hello: &guestapi.GuestHello{
		Version: guestapi.Version, Session: h.Session, BootID: guestapi.NewText(c.bootID)}})
	if h.Version != guestapi.Version {
		// The answer carries our version; the host says the rest to its user.
		err := fmt.Errorf("the host speaks version %d of the protocol, this guest %d", h.Version, guestapi.Version)
		c.out.Put(guestapi.Event{Failed: &guestapi.Failed{Phase: guestapi.NewText(guestapi.PhaseConfigured), Cause: guestapi.NewProse(err.Error()), Fatal: true}})
		return err
	}
	c.greeted(first)
	return nil
}
