package supervisor

import (
	"context"
	"net"
	"sync"
	"time"
)

// What the guest may say. It is read no faster, so whoever floods in the guest waits there,
// and what it keeps back is its own to bound. An honest guest says some hundred things at
// a boot and a few a second later.
const (
	eventRate  = 1000 // events of up to eventSize bytes a second
	eventBurst = 4000 // that may come at once
	eventSize  = 256  // bytes; a longer event counts as several

	// maxUptime bounds the clock of a guest.
	maxUptime = 20 * 365 * 24 * time.Hour

	// flightPause is between two of what one kind of event has the host do.
	flightPause = time.Second

	// writePatience bounds how long a guest may leave unread what it is told.
	writePatience = 10 * time.Second
)

// pace returns what makes a reader wait until the guest may say more, or ctx ends.
func pace(ctx context.Context) func(bytes int) {
	budget := bucket{rate: eventRate, burst: eventBurst}
	return func(bytes int) {
		delay := budget.borrow(1+bytes/eventSize, time.Now())
		if delay <= 0 {
			return
		}
		timer := time.NewTimer(delay)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-ctx.Done():
		}
	}
}

// A flight does what is asked for more often than it can be done: one at a time, with a
// pause after each, and one more if somebody has asked meanwhile.
type flight struct {
	mu            sync.Mutex
	flying, again bool
}

// start has it done; it does not wait.
func (f *flight) start(do func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.flying {
		f.again = true
		return
	}
	f.flying = true
	go func() {
		for {
			do()
			time.Sleep(flightPause)
			f.mu.Lock()
			if !f.again {
				f.flying = false
				f.mu.Unlock()
				return
			}
			f.again = false
			f.mu.Unlock()
		}
	}()
}

// patient is a connection on which no write takes for ever.
type patient struct{ net.Conn }

func (p patient) Write(b []byte) (int, error) {
	if err := p.SetWriteDeadline(time.Now().Add(writePatience)); err != nil {
		return 0, err
	}
	return p.Conn.Write(b)
}
