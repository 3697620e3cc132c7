// Package outboxtest reads an outbox as a host would.
package outboxtest

import (
	"context"
	"testing"
	"time"

	"github.com/hyve-vm/hyve/internal/guest/outbox"
	"github.com/hyve-vm/hyve/internal/guestapi"
)

// New returns an outbox as if a host were there.
func New() *outbox.Outbox {
	began := time.Now()
	o := outbox.New(func() time.Duration { return time.Since(began) })
	o.Put(guestapi.Event{Hello: &guestapi.GuestHello{}})
	return o
}

// Next takes events until match holds for one.
func Next(t *testing.T, o *outbox.Outbox, match func(guestapi.Event) bool) guestapi.Event {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	for {
		e, err := o.Take(ctx)
		if err != nil {
			t.Fatal("the event has not come")
		}
		o.Sent()
		if match(e) {
			return e
		}
	}
}
