package supervisor

import "time"

// A bucket is a budget that fills up again: rate units a second, up to burst. It is full
// at first.
type bucket struct {
	rate, burst float64

	spent float64 // more than burst where somebody has borrowed
	last  time.Time
}

// take takes n, if they are there.
func (b *bucket) take(n int, now time.Time) bool {
	b.fill(now)
	if b.spent+float64(n) > b.burst {
		return false
	}
	b.spent += float64(n)
	return true
}

// borrow takes n, and returns after how long they will have been there.
func (b *bucket) borrow(n int, now time.Time) time.Duration {
	b.fill(now)
	b.spent += float64(n)
	return time.Duration(max(0, b.spent-b.burst) / b.rate * float64(time.Second))
}

func (b *bucket) fill(now time.Time) {
	if !b.last.IsZero() {
		b.spent = max(0, b.spent-now.Sub(b.last).Seconds()*b.rate)
	}
	b.last = now
}
