package supervisor

import (
	"context"
	"errors"
	"fmt"

	"github.com/hyve-vm/hyve/internal/guestapi"
)

// maxUnsaid bounds what is kept for a guest that is being frozen: more ports than it can
// have opened in the moment before it stood still.
const maxUnsaid = 1024

// send asks the guest for something, if it is there to be asked. What it must not miss and
// nobody says again, one that is being frozen hears when that is over.
func (g *guest) send(request guestapi.Request) error {
	g.mu.Lock()
	out, quiet := g.out, g.quiet
	once := request.PortAck != nil || request.Identity != nil && request.ID == 0
	keep := out != nil && quiet && once && len(g.unsaid) < maxUnsaid
	if keep {
		g.unsaid = append(g.unsaid, request)
	}
	if out != nil && !quiet {
		g.saying++
		defer g.said()
	}
	g.mu.Unlock()
	switch {
	case out == nil:
		return errors.New("the guest is not connected")
	case keep:
		return nil
	case quiet:
		return errors.New("the guest is being frozen")
	}
	return out.Write(request)
}

// ask makes a request and waits for its reply.
func (g *guest) ask(ctx context.Context, request guestapi.Request) error {
	_, err := g.inquire(ctx, request)
	return err
}

// inquire is ask for a request whose reply says more than that it went well.
func (g *guest) inquire(ctx context.Context, request guestapi.Request) (guestapi.Reply, error) {
	reply := make(chan guestapi.Reply, 1)
	g.mu.Lock()
	g.lastID++
	request.ID = g.lastID
	g.replies[request.ID] = reply
	g.mu.Unlock()
	defer func() {
		g.mu.Lock()
		delete(g.replies, request.ID)
		g.mu.Unlock()
	}()
	if err := g.send(request); err != nil {
		return guestapi.Reply{}, err
	}
	select {
	case r := <-reply:
		if text := r.Error.String(); text != "" {
			return r, errors.New(text)
		}
		return r, nil
	case <-ctx.Done():
		return guestapi.Reply{}, fmt.Errorf("waiting for the guest: %w", context.Cause(ctx))
	}
}

// replied hands a reply to whoever waits for it.
func (g *guest) replied(reply guestapi.Reply) {
	g.mu.Lock()
	waiting := g.replies[reply.ID]
	delete(g.replies, reply.ID)
	woken := g.thawing && reply.ID == openingID
	if woken {
		g.thawing = false
	}
	g.mu.Unlock()
	switch {
	case waiting != nil:
		waiting <- reply
	case woken && reply.Error.String() == "":
		g.inbox.post(message{kind: engineUp})
	case woken:
		g.log.Error("the thawed guest cannot be this machine", "cause", reply.Error)
		g.inbox.post(message{kind: unfit})
	case reply.Error.String() != "":
		g.log.Warn("guest refused a request", "id", reply.ID, "error", reply.Error)
	}
}

// quiesce implements channel, for a guest that is ready for a freeze.
func (g *guest) quiesce(ctx context.Context) error {
	g.mu.Lock()
	g.quiet = true
	if g.saying > 0 && g.silence == nil {
		g.silence = make(chan struct{})
	}
	silence := g.silence
	g.mu.Unlock()
	if silence == nil {
		return nil
	}
	select {
	case <-silence:
		return nil
	case <-ctx.Done():
		g.resume()
		return fmt.Errorf("waiting for the guest to listen: %w", context.Cause(ctx))
	}
}

// said ends what send has begun to say.
func (g *guest) said() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.saying--; g.saying == 0 && g.silence != nil {
		close(g.silence)
		g.silence = nil
	}
}

// resume implements channel. The guest hears what was kept for it before anything newer.
func (g *guest) resume() {
	for {
		g.mu.Lock()
		out, unsaid := g.out, g.unsaid
		g.unsaid = nil
		if out == nil || len(unsaid) == 0 {
			g.quiet = false
			g.mu.Unlock()
			return
		}
		g.mu.Unlock()
		for _, request := range unsaid {
			if err := out.Write(request); err != nil {
				g.log.Warn("telling the guest what it has missed", "error", err)
			}
		}
	}
}
