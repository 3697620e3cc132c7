package network

import "slices"

// A want is one publication's wish for an address.
type want struct {
	guest uint16 // the port in the guest that it is to lead to
	need  need
}

// target is the port in the guest to which the address leads: that of who came first
// among those for whom it is no extra, if there are any.
func (one *port) target() uint16 {
	for _, w := range one.wants {
		if w.need != extra {
			return w.guest
		}
	}
	return one.wants[0].guest
}

// forget takes back one of the wishes that are like w, the last.
func (one *port) forget(w want) {
	for i, other := range slices.Backward(one.wants) {
		if other == w {
			one.wants = slices.Delete(one.wants, i, i+1)
			return
		}
	}
}

// lead has the address lead where it should now. Connections that were made stay.
func (p *publisher) lead(one *port) {
	if guest := one.target(); guest != one.guest {
		p.unbind(one)
		one.guest = guest
		p.open(one)
	}
}
