package guest

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/hyve-vm/hyve/internal/guestapi"
)

// maxQueuedLogs bounds the log lines that wait for the host; maxQueuedEvents
// everything else, which a host that stopped reading could otherwise let grow
// for ever.
const (
	maxQueuedLogs   = 4096
	maxQueuedEvents = 4096
)

// An outbox holds the events on their way to the host. Putting one in never
// blocks, so neither a service nor PID 1 waits for a slow host. Nothing leaves
// before the first hello is answered.
type outbox struct {
	uptime func() time.Duration

	mu      sync.Mutex
	hello   *guestapi.Event // goes before all others
	greeted bool            // a hello was answered once
	events  []guestapi.Event
	logs    []guestapi.Event
	dropped int           // log lines lost since the last report
	sending bool          // take has handed one out and sent has not been called
	wake    chan struct{} // holds a token when there may be something to take
	idle    chan struct{} // closed and replaced when all has been sent
}

func newOutbox(uptime func() time.Duration) *outbox {
	return &outbox{uptime: uptime, wake: make(chan struct{}, 1), idle: make(chan struct{})}
}

// put queues an event and stamps it.
func (o *outbox) put(e guestapi.Event) {
	if e.Uptime == 0 {
		e.Uptime = o.uptime()
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	switch {
	case e.Hello != nil:
		o.hello = &e
		o.greeted = true
	case e.Log != nil:
		if len(o.logs) >= maxQueuedLogs {
			o.dropped++
			return
		}
		o.logs = append(o.logs, e)
	default:
		if len(o.events) >= maxQueuedEvents {
			o.events = o.events[1:]
		}
		o.events = append(o.events, e)
	}
	select {
	case o.wake <- struct{}{}:
	default:
	}
}

// logf queues a line of hyve-init's own log.
func (o *outbox) logf(format string, args ...any) {
	o.log(guestapi.ServiceInit, fmt.Sprintf(format, args...))
}

// log queues a line of a service.
func (o *outbox) log(service, line string) {
	o.put(guestapi.Event{Log: &guestapi.Log{Service: guestapi.NewText(service), Line: guestapi.NewLine(line)}})
}

// take waits for the next event to send: a hello first, then what the host acts
// upon, then log lines. The caller calls sent when it is out.
func (o *outbox) take(ctx context.Context) (guestapi.Event, error) {
	for {
		if e, ok := o.next(); ok {
			return e, nil
		}
		select {
		case <-o.wake:
		case <-ctx.Done():
			return guestapi.Event{}, ctx.Err()
		}
	}
}

func (o *outbox) next() (guestapi.Event, bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	var e guestapi.Event
	switch {
	case !o.greeted:
		return e, false
	case o.hello != nil:
		e, o.hello = *o.hello, nil
	case len(o.events) > 0:
		e, o.events = o.events[0], o.events[1:]
	case o.dropped > 0 && len(o.logs) < maxQueuedLogs/2:
		line := fmt.Sprintf("%d log lines were dropped: the host reads too slowly", o.dropped)
		e = guestapi.Event{Uptime: o.uptime(), Log: &guestapi.Log{Service: guestapi.NewText(guestapi.ServiceInit), Line: guestapi.NewLine(line)}}
		o.dropped = 0
	case len(o.logs) > 0:
		e, o.logs = o.logs[0], o.logs[1:]
	default:
		return e, false
	}
	o.sending = true
	return e, true
}

// sent says that the event which take returned is out, or given up.
func (o *outbox) sent() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.sending = false
	if o.hello == nil && len(o.events) == 0 && len(o.logs) == 0 {
		close(o.idle)
		o.idle = make(chan struct{})
	}
}

// flush waits until everything queued has been sent, at most for d. Without a
// host to send to it returns at once.
func (o *outbox) flush(d time.Duration) {
	timeout := time.NewTimer(d)
	defer timeout.Stop()
	for {
		o.mu.Lock()
		empty := !o.greeted || !o.sending && o.hello == nil && len(o.events) == 0 && len(o.logs) == 0
		idle := o.idle
		o.mu.Unlock()
		if empty {
			return
		}
		select {
		case <-idle:
		case <-timeout.C:
			return
		}
	}
}
