// Package outbox holds what the guest tells the host until it is sent.
package outbox

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

// An Outbox holds the events on their way to the host. Putting one in never
// blocks, so neither a service nor PID 1 waits for a slow host. Nothing leaves
// before the first hello is answered.
type Outbox struct {
	uptime func() time.Duration

	mu      sync.Mutex
	hello   *guestapi.Event // goes before all others
	greeted bool            // a hello was answered once
	events  []guestapi.Event
	logs    []guestapi.Event
	dropped int           // Log lines lost since the last report
	sending bool          // Take has handed one out and sent has not been called
	wake    chan struct{} // holds a token when there may be something to take
	idle    chan struct{} // closed and replaced when all has been sent
}

// New returns an outbox whose events are stamped with the guest's uptime.
func New(uptime func() time.Duration) *Outbox {
	return &Outbox{uptime: uptime, wake: make(chan struct{}, 1), idle: make(chan struct{})}
}

// Put queues an event and stamps it.
func (o *Outbox) Put(e guestapi.Event) {
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

// Phase queues that a step of the boot has ended.
func (o *Outbox) Phase(name string) {
	o.Put(guestapi.Event{Phase: &guestapi.Phase{Name: guestapi.NewText(name)}})
}

// Logf queues a line of hyve-init's own log.
func (o *Outbox) Logf(format string, args ...any) {
	o.Log(guestapi.ServiceInit, fmt.Sprintf(format, args...))
}

// Log queues a line of a service.
func (o *Outbox) Log(service, line string) {
	o.Put(guestapi.Event{Log: &guestapi.Log{Service: guestapi.NewText(service), Line: guestapi.NewLine(line)}})
}

// Take waits for the next event to send: a hello first, then what the host acts
// upon, then log lines. The caller calls Sent when it is out.
func (o *Outbox) Take(ctx context.Context) (guestapi.Event, error) {
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

func (o *Outbox) next() (guestapi.Event, bool) {
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

// Sent says that the event that Take returned is out, or given up.
func (o *Outbox) Sent() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.sending = false
	if o.hello == nil && len(o.events) == 0 && len(o.logs) == 0 {
		close(o.idle)
		o.idle = make(chan struct{})
	}
}

// Flush waits until everything queued has been sent, at most for d. Without a
// host to send to it returns at once.
func (o *Outbox) Flush(d time.Duration) {
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
